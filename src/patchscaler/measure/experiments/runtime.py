"""Table 2: seconds of x4 from 128, 256 and 512 pixels; uniform and adaptive steps; one worker and two."""

import itertools
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from patchscaler.data.reading import picture_files
from patchscaler.engines.processor import usable_cores
from patchscaler.imaging.files import write_picture
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.resize import resize_bicubic
from patchscaler.measure.experiments.plots import bars, new_axes
from patchscaler.measure.experiments.record import Record, Table, Verdict
from patchscaler.measure.experiments.setting import Setting
from patchscaler.measure.experiments.trial import Notify
from patchscaler.measure.intervals import difference
from patchscaler.measure.models import DEFAULT, PAPER, SCALE
from patchscaler.measure.pairing import read_pixels
from patchscaler.measure.sets import look, middle, spread
from patchscaler.measure.speed.settings import ADAPTIVE, BASELINES, UNIFORM, Configuration
from patchscaler.measure.speed.suite import measure_pictures, title
from patchscaler.pgs.groups import GroupConfig
from patchscaler.storage import model_folder

SIDES = (128, 256, 512)  # of the input in pixels
BALANCED = "adaptive, the default's steps"
METHODS = {UNIFORM: BASELINES[UNIFORM], ADAPTIVE: PAPER, BALANCED: GroupConfig(steps=DEFAULT), **BASELINES}
ONE, TWO = "adaptive, one worker", "adaptive, two workers"

# (side, method) -> figures of every picture
Figures = dict[tuple[int, str], list[dict[str, float]]]


def run(setting: Setting, notify: Notify = lambda line: None) -> Record:
    """The benchmark's measurement of every picture, resized to each side, so that all sides show the same scene."""
    source = look(setting.data, setting.no_reference)
    paths = spread(picture_files(source.sharp or source.small or setting.data), setting.pictures)
    devices = _two_devices(setting.device)
    found: Figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for side in SIDES:
            pictures = [_resized(path, side, Path(folder) / f"{side}_{path.stem}.png") for path in paths]
            for name, configuration in _configurations(setting, side, devices if side > SIDES[0] else ()).items():
                notify(f"{name}: {title(configuration)}")
                measured = measure_pictures(configuration, pictures, repeats=1, warm_up=1)
                found[side, name] = [_figures(entry) for entry in measured]
    record = Record("runtime", setting, {"sides": list(SIDES), "workers": list(devices)}, [p.stem for p in paths])
    record.tables = [_table(found)]
    record.verdicts = {
        "runtime": _runtime(found),
        "runtime-size": _by_size(found),
        "two-workers": _two_workers(found, setting.device),
    }
    record.plot, axes = new_axes()
    series = {method: [_mean(found[side, method], "seconds") for side in SIDES] for method in METHODS}
    bars(axes, [f"{side} to {SCALE * side}" for side in SIDES], series, "seconds per picture")
    axes.set_xscale("log")
    return record


def _configurations(setting: Setting, side: int, devices: tuple[str, ...]) -> dict[str, Configuration]:
    """Every method, and where there are two devices, adaptive steps on one of them and on both, split as in the
    paper."""
    found = {
        name: Configuration(
            method=name,
            height=side,
            width=side,
            steps=groups.steps,
            taus=groups.taus,
            batch_size=setting.batch_size,
            dtype=setting.dtype,
            threads=setting.threads,
            device=setting.device,
            model=model_folder(setting.model),
        )
        for name, groups in METHODS.items()
    }
    on_cpu = setting.device == "cpu"  # one thread a worker
    if devices:
        found[ONE] = replace(found[ADAPTIVE], threads=1 if on_cpu else setting.threads)
        found[TWO] = replace(found[ADAPTIVE], threads=2 if on_cpu else setting.threads, workers=devices)
    return found


def _resized(path: Path, side: int, file: Path) -> Path:
    pixels = read_pixels(path)
    square = middle(pixels, min(pixels.shape[-2:]), 1).numpy()
    write_picture(file, resize_bicubic(square, Size(side, side), clamp=True))
    return file


def _figures(entry: dict[str, Any]) -> dict[str, float]:
    stages = entry["stages"]
    return {
        "seconds": entry["seconds"],
        "sampling": sum((stages[name]["seconds"] for name in ("prompt", "sample") if name in stages), 0.0),
        "patch_steps": float(entry["patch_steps"]),
        "simple": entry["patches"]["simple"] / sum(entry["patches"].values()),
    }


def _two_devices(device: str) -> tuple[str, ...]:
    """What two workers run on: two processor cores or two GPUs; nothing where there aren't two."""
    if device == "cpu":
        return ("cpu", "cpu") if usable_cores() > 1 else ()
    return ("cuda:0", "cuda:1") if device.startswith("cuda") and torch.cuda.device_count() > 1 else ()


def _column(figures: list[dict[str, float]], name: str) -> list[float]:
    return [picture[name] for picture in figures]


def _mean(figures: list[dict[str, float]], name: str) -> float:
    return statistics.fmean(_column(figures, name))


def _table(found: Figures) -> Table:
    columns = [("", 0), ("input", 0), ("seconds", 2), ("sampling", 2), ("patch-steps", 0), ("simple patches", 2)]
    columns += [("of uniform's seconds", 3), ("of uniform's patch-steps", 3)]
    rows: list[list[Any]] = []
    for (side, method), figures in found.items():
        values = [_mean(figures, name) for name in ("seconds", "sampling", "patch_steps", "simple")]
        uniform = found[side, UNIFORM]
        shares = [values[0] / _mean(uniform, "seconds"), values[2] / _mean(uniform, "patch_steps")]
        rows.append([method, f"{side}x{side}", *values, *shares])
    title = f"x{SCALE}, seconds per picture, start-up left out; a worker has a core or GPU, one of two the hard patches"
    return Table(title, columns, rows)


def _shares(found: Figures, name: str, method: str = ADAPTIVE) -> dict[int, float]:
    return {side: _mean(found[side, method], name) / _mean(found[side, UNIFORM], name) for side in SIDES}


def _listed(shares: dict[int, float]) -> str:
    return ", ".join(f"{side}: {share:.2f}" for side, share in shares.items())


def _runtime(found: Figures) -> Verdict:
    shares = _shares(found, "seconds")
    saved = difference(*(_column(found[SIDES[-1], method], "seconds") for method in (UNIFORM, ADAPTIVE)))
    figure = (
        f"share of uniform's time from {_listed(shares)}; seconds saved from {SIDES[-1]}: {saved}; "
        f"with the default's steps {_listed(_shares(found, 'seconds', BALANCED))}"
    )
    return Verdict(max(shares.values()) < 1, figure, "steps 8, 14, 20 against 20 for every patch")


def _by_size(found: Figures) -> Verdict:
    shares = _shares(found, "patch_steps")
    falls = all(a > b for a, b in itertools.pairwise(shares.values()))
    return Verdict(falls, f"share of uniform's patch-steps from {_listed(shares)}", "the same pictures at each size")


def _two_workers(found: Figures, device: str) -> Verdict:
    sides = [side for side, name in found if name == TWO]
    if not sides:
        return Verdict(None, f"{device} has no second core or GPU", "nothing")
    gains = {side: _mean(found[side, ONE], "seconds") / _mean(found[side, TWO], "seconds") for side in sides}
    saved = difference(*(_column(found[sides[-1], name], "seconds") for name in (ONE, TWO)))
    ran = "two cores against one" if device == "cpu" else "two GPUs against one"
    figure = f"times as fast from {_listed(gains)}; seconds saved from {sides[-1]}: {saved}"
    return Verdict(gains[sides[-1]] > 1, figure, f"{ran}, split by groups as in the paper, steps 8, 14, 20")
