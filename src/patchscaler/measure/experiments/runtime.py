"""Table 2: seconds of x4 from 128, 256 and 512 pixels; uniform and adaptive steps; one worker and two."""

import itertools
import os
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from patchscaler.data.reading import picture_files
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.resize import resize_bicubic
from patchscaler.imaging.sources import picture_from
from patchscaler.measure.experiments.plots import bars, new_axes
from patchscaler.measure.experiments.record import Record, Table, Verdict
from patchscaler.measure.experiments.setting import Setting
from patchscaler.measure.experiments.trial import Notify
from patchscaler.measure.intervals import difference
from patchscaler.measure.models import DEFAULT, NONE, PAPER, SCALE, UNIFORM, enlarge, load_model, sampling_seconds
from patchscaler.measure.pairing import read_pixels
from patchscaler.measure.sets import look, middle, spread

SIDES = (128, 256, 512)  # of the input in pixels
EVERY, ADAPTIVE, BALANCED, ALONE = "uniform", "adaptive", "adaptive, the default's steps", "restorer alone"
METHODS: dict[str, dict[str, Any]] = {
    EVERY: {"steps": UNIFORM.steps, "taus": UNIFORM.taus},
    ADAPTIVE: {"steps": PAPER.steps},
    BALANCED: {"steps": DEFAULT},
    ALONE: {"steps": NONE.steps},
}

# (side, method or worker count) -> a figure of every picture
Figures = dict[tuple[int, str], list[dict[str, float]]]


def run(setting: Setting, notify: Notify = lambda line: None) -> Record:
    """Every picture is resized to each side and enlarged, so that all sides show the same scene."""
    model = load_model(setting.model, setting.device, setting.dtype, setting.threads)
    source = look(setting.data, setting.no_reference)
    paths = spread(picture_files(source.sharp or source.small or setting.data), setting.pictures)
    squares = [_square(read_pixels(path)) for path in paths]
    options: dict[str, Any] = {"seed": setting.seed, "batch_size": setting.batch_size}

    def measured(side: int, method: str, **more: Any) -> list[dict[str, float]]:
        """All pictures in one call, so that workers are kept between them."""
        small = [
            picture_from(resize_bicubic(x.numpy(), Size(side, side), clamp=True)[0].transpose(1, 2, 0)) for x in squares
        ]
        return [_figures(output.report) for output in enlarge(model, small, **options, **METHODS[method], **more)]

    measured(SIDES[0], BALANCED)  # sets libraries up
    ways: Figures = {}
    for side, method in itertools.product(SIDES, METHODS):
        notify(f"{side}x{side}, {method}")
        ways[side, method] = measured(side, method)
    workers: Figures = {}
    devices = _two_devices(setting.device)
    on_cpu = setting.device == "cpu"
    for name, threads, more in (("one", 1, {}), ("two", 2, {"workers": devices, "split": "groups"})):
        with _threads(threads if on_cpu else None):
            for side in SIDES[1:] if devices else ():
                notify(f"{side}x{side}, {name} worker{'s' * (name == 'two')}")
                workers[side, name] = measured(side, ADAPTIVE, **more)
    record = Record("runtime", setting, {"sides": list(SIDES), "workers": list(devices)}, [p.stem for p in paths])
    record.tables = [_methods_table(ways), *([_workers_table(workers)] if workers else [])]
    record.verdicts = {
        "runtime": _runtime(ways),
        "runtime-size": _by_size(ways),
        "two-workers": _two_workers(workers, setting.device),
    }
    record.plot, axes = new_axes()
    series = {method: [_mean(ways[side, method], "seconds") for side in SIDES] for method in METHODS}
    bars(axes, [f"{side} to {SCALE * side}" for side in SIDES], series, "seconds per picture")
    axes.set_xscale("log")
    return record


def _figures(report: Any) -> dict[str, float]:
    return {
        "seconds": sum(stage["seconds"] for stage in report.stages.values()),
        "sampling": sampling_seconds(report),
        "patch_steps": float(report.patch_steps),
        "simple": report.patches["simple"] / sum(report.patches.values()),
    }


def _square(pixels: torch.Tensor) -> torch.Tensor:
    side = min(pixels.shape[-2:])
    return middle(pixels, side, 1)


def _two_devices(device: str) -> tuple[str, ...]:
    """What two workers run on: two processor cores or two GPUs; nothing where there aren't two."""
    if device == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return ("cpu", "cpu") if cores > 1 else ()
    return ("cuda:0", "cuda:1") if device.startswith("cuda") and torch.cuda.device_count() > 1 else ()


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Within, torch has so many threads; None: as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _column(figures: list[dict[str, float]], name: str) -> list[float]:
    return [picture[name] for picture in figures]


def _mean(figures: list[dict[str, float]], name: str) -> float:
    return statistics.fmean(_column(figures, name))


def _methods_table(ways: Figures) -> Table:
    columns = [("", 0), ("input", 0), ("seconds", 2), ("sampling", 2), ("patch-steps", 0), ("simple patches", 2)]
    columns += [("of uniform's seconds", 3), ("of uniform's patch-steps", 3)]
    rows: list[list[Any]] = []
    for (side, method), figures in ways.items():
        values = [_mean(figures, name) for name in ("seconds", "sampling", "patch_steps", "simple")]
        uniform = ways[side, EVERY]
        shares = [values[0] / _mean(uniform, "seconds"), values[2] / _mean(uniform, "patch_steps")]
        rows.append([method, f"{side}x{side}", *values, *shares])
    return Table(f"x{SCALE}, seconds per picture, start-up left out", columns, rows)


def _workers_table(workers: Figures) -> Table:
    rows: list[list[Any]] = []
    for side in dict.fromkeys(side for side, _ in workers):
        one, two = (_mean(workers[side, name], "seconds") for name in ("one", "two"))
        sampling = [_mean(workers[side, name], "sampling") for name in ("one", "two")]
        rows.append([f"{side}x{side}", one, two, one / two, *sampling])
    columns = [("input", 0), ("one worker, s", 2), ("two workers, s", 2), ("times as fast", 2)]
    columns += [("sampling of one, s", 2), ("of two, s", 2)]
    title = "One worker (a core or GPU) and two, hard patches on one of them; they are started once for all pictures"
    return Table(f"{title}; steps 8, 14, 20", columns, rows)


def _shares(ways: Figures, name: str, method: str = ADAPTIVE) -> dict[int, float]:
    return {side: _mean(ways[side, method], name) / _mean(ways[side, EVERY], name) for side in SIDES}


def _listed(shares: dict[int, float]) -> str:
    return ", ".join(f"{side}: {share:.2f}" for side, share in shares.items())


def _runtime(ways: Figures) -> Verdict:
    shares = _shares(ways, "seconds")
    saved = difference(*(_column(ways[SIDES[-1], method], "seconds") for method in (EVERY, ADAPTIVE)))
    figure = (
        f"share of uniform's time from {_listed(shares)}; seconds saved from {SIDES[-1]}: {saved}; "
        f"with the default's steps {_listed(_shares(ways, 'seconds', BALANCED))}"
    )
    return Verdict(max(shares.values()) < 1, figure, "steps 8, 14, 20 against 20 for every patch")


def _by_size(ways: Figures) -> Verdict:
    shares = _shares(ways, "patch_steps")
    falls = all(a > b for a, b in itertools.pairwise(shares.values()))
    return Verdict(falls, f"share of uniform's patch-steps from {_listed(shares)}", "the same pictures at each size")


def _two_workers(workers: Figures, device: str) -> Verdict:
    if not workers:
        return Verdict(None, f"{device} has no second core or GPU", "nothing")
    sides = list(dict.fromkeys(side for side, _ in workers))
    gains = {side: _mean(workers[side, "one"], "seconds") / _mean(workers[side, "two"], "seconds") for side in sides}
    saved = difference(*(_column(workers[sides[-1], name], "seconds") for name in ("one", "two")))
    ran = "two cores against one" if device == "cpu" else "two GPUs against one"
    figure = f"times as fast from {_listed(gains)}; seconds saved from {sides[-1]}: {saved}"
    return Verdict(gains[sides[-1]] > 1, figure, f"{ran}, split by groups as in the paper, steps 8, 14, 20")
