"""Table 2: seconds of x4 from 128, 256 and 512 pixels; uniform and adaptive steps; one worker and two."""

import itertools
import os
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from patchscaler.data.reading import picture_files
from patchscaler.imaging.files import read_picture
from patchscaler.imaging.geometry import SCALE, Size
from patchscaler.imaging.resize import resize_bicubic
from patchscaler.measure.experiments.inputs import spread
from patchscaler.measure.experiments.measuring import Notify, load_model, sampling_seconds
from patchscaler.measure.experiments.record import Record, Table, Verdict
from patchscaler.measure.experiments.setting import Setting
from patchscaler.measure.speed.settings import ADAPTIVE, BASELINES, RESTORER, UNIFORM
from patchscaler.options import QUALITIES
from patchscaler.pgs.groups import GroupConfig

SIDES = (128, 256, 512)  # of the input in pixels
BALANCED = "adaptive, the default's steps"
METHODS: dict[str, GroupConfig] = {
    UNIFORM: BASELINES[UNIFORM],
    ADAPTIVE: GroupConfig(),
    BALANCED: GroupConfig(steps=QUALITIES["balanced"]),
    RESTORER: BASELINES[RESTORER],
}

# (side, method or worker count) -> a figure of every picture
Figures = dict[tuple[int, str], list[dict[str, float]]]


def run(setting: Setting, notify: Notify = lambda line: None) -> Record:
    """Every picture is resized to each side and enlarged, so that all sides show the same scene."""
    pipeline = load_model(setting)
    paths = spread(picture_files(setting.data), setting.pictures)
    pictures = [_square(torch.from_numpy(read_picture(path).pixels)) for path in paths]
    options: dict[str, Any] = {"output_type": "pt", "seed": setting.seed, "batch_size": setting.batch_size}

    def measured(side: int, groups: GroupConfig, **more: Any) -> list[dict[str, float]]:
        found = []
        for pixels in pictures:
            small = torch.from_numpy(resize_bicubic(pixels.numpy(), Size(side, side), clamp=True))[0]
            output: Any = pipeline(small, steps=groups.steps, taus=groups.taus, **options, **more)
            stages = output.report.stages
            found.append(
                {
                    "seconds": sum(stage["seconds"] for stage in stages.values()),
                    "sampling": sampling_seconds(stages),
                    "patch_steps": float(output.report.patch_steps),
                    "simple": output.report.patches["simple"] / sum(output.report.patches.values()),
                }
            )
        return found

    measured(SIDES[0], GroupConfig(steps=(1, 1, 1)))  # sets libraries up
    ways: Figures = {}
    for side in SIDES:
        for method, groups in METHODS.items():
            notify(f"{side}x{side}, {method}")
            ways[side, method] = measured(side, groups)
    workers: Figures = {}
    devices = _two_devices(setting.device)
    if devices:
        with _threads(1 if setting.device == "cpu" else None):
            for side in SIDES[1:]:
                notify(f"{side}x{side}, one worker")
                workers[side, "one"] = measured(side, METHODS[ADAPTIVE])
        for side in SIDES[1:]:
            notify(f"{side}x{side}, two workers")
            with _threads(2 if setting.device == "cpu" else None):
                workers[side, "two"] = measured(side, METHODS[ADAPTIVE], workers=devices)
    record = Record("runtime", setting, {"sides": list(SIDES), "workers": list(devices)}, [p.stem for p in paths])
    record.tables = [_methods_table(ways), *([_workers_table(workers)] if workers else [])]
    record.verdicts = {
        "runtime": _runtime(ways),
        "runtime-size": _by_size(ways),
        "two-workers": _two_workers(workers, setting.device),
    }
    record.plot = _plot(ways)
    return record


def _square(pixels: torch.Tensor) -> torch.Tensor:
    side = min(pixels.shape[-2:])
    top, left = ((length - side) // 2 for length in pixels.shape[-2:])
    return pixels[..., top : top + side, left : left + side]


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


def _mean(figures: list[dict[str, float]], name: str) -> float:
    return statistics.fmean(picture[name] for picture in figures)


def _methods_table(ways: Figures) -> Table:
    columns = [("", 0), ("input", 0), ("seconds", 2), ("sampling", 2), ("patch-steps", 0), ("simple patches", 2)]
    columns += [("of uniform's seconds", 3), ("of uniform's patch-steps", 3)]
    rows = []
    for (side, method), figures in ways.items():
        values = [_mean(figures, name) for name in ("seconds", "sampling", "patch_steps", "simple")]
        uniform = ways[side, UNIFORM]
        shares = [values[0] / _mean(uniform, "seconds"), values[2] / _mean(uniform, "patch_steps")]
        rows.append([method, f"{side}x{side}", *values, *shares])
    return Table(f"x{SCALE}, seconds per picture, start-up left out", columns, rows)


def _workers_table(workers: Figures) -> Table:
    rows = []
    for side in dict.fromkeys(side for side, _ in workers):
        one, two = (_mean(workers[side, name], "seconds") for name in ("one", "two"))
        sampling = [_mean(workers[side, name], "sampling") for name in ("one", "two")]
        rows.append([f"{side}x{side}", one, two, one / two, *sampling])
    columns = [("input", 0), ("one worker, s", 2), ("two workers, s", 2), ("times as fast", 2)]
    columns += [("sampling of one, s", 2), ("of two, s", 2)]
    return Table("One worker (a core or GPU) and two, steps 8, 14, 20; the second pays for its start", columns, rows)


def _share(ways: Figures, side: int, name: str) -> float:
    return _mean(ways[side, ADAPTIVE], name) / _mean(ways[side, UNIFORM], name)


def _runtime(ways: Figures) -> Verdict:
    shares = {side: _share(ways, side, "seconds") for side in SIDES}
    figure = ", ".join(f"{side}: {share:.2f}" for side, share in shares.items())
    return Verdict(
        max(shares.values()) < 1, f"share of uniform's time from {figure}", "steps 8, 14, 20 against 20 for every patch"
    )


def _by_size(ways: Figures) -> Verdict:
    shares = [_share(ways, side, "patch_steps") for side in SIDES]
    figure = ", ".join(f"{side}: {share:.2f}" for side, share in zip(SIDES, shares, strict=True))
    falls = all(a > b for a, b in itertools.pairwise(shares))
    return Verdict(falls, f"share of uniform's patch-steps from {figure}", "the same pictures at each size")


def _two_workers(workers: Figures, device: str) -> Verdict:
    if not workers:
        return Verdict(None, f"{device} has no second core or GPU", "nothing")
    gains = {
        side: _mean(workers[side, "one"], "seconds") / _mean(workers[side, "two"], "seconds")
        for side in dict.fromkeys(side for side, _ in workers)
    }
    figure = ", ".join(f"{side}: {gain:.2f}" for side, gain in gains.items())
    ran = "two cores against one" if device == "cpu" else "two GPUs against one"
    return Verdict(
        gains[SIDES[-1]] > 1, f"times as fast from {figure}", f"{ran}, steps 8, 14, 20, workers' start included"
    )


def _plot(ways: Figures) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(METHODS)
    for number, method in enumerate(METHODS):
        places = [place + number * width for place in range(len(SIDES))]
        axes.bar(places, [_mean(ways[side, method], "seconds") for side in SIDES], width, label=method)
    axes.set_xticks([place + 0.4 - width / 2 for place in range(len(SIDES))], [f"{s} to {SCALE * s}" for s in SIDES])
    axes.set_yscale("log")
    axes.set_ylabel("seconds per picture")
    axes.legend(fontsize="small")
    return figure
