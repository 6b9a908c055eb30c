"""As many steps as fit into a number of seconds, by this machine's measured speed."""

import math
import time
import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchscaler.engines.protocol import Engine
from patchscaler.imaging.colour import wavelet_colour_fix
from patchscaler.imaging.geometry import STRIDE
from patchscaler.imaging.picture import quantise
from patchscaler.options import LADDER, Options
from patchscaler.report import Report
from patchscaler.stages.refine import PatchSet, refine_patches
from patchscaler.stages.task import Task

TRIAL_PATCHES = 8
TRIAL_LATENTS = 32  # side of the square that is decoded and written for trial
# Choice: estimates are spent to this share, because other programs come and go.
SHARE = 0.9


class Speed(NamedTuple):
    """Seconds: of the prompt and of a step of one patch, and of the rest (decode to write) per latent."""

    prompt: float
    step: float
    finish: float


def within_budget(task: Task, groups: NDArray[np.int64], engine: Engine, workers: int) -> Options:
    """The task's options; where they have a budget, with the most steps that let the picture be finished in time.

    groups   of the patches
    workers  that share them
    """
    options, report = task.options, task.report
    if options.budget is None:
        return options
    speed = measure(engine, options)
    latents = math.prod(report.output_size) / STRIDE**2
    left = SHARE * (options.budget - (time.perf_counter() - task.started)) - speed.finish * latents
    counts = np.bincount(groups, minlength=len(options.taus)).tolist()
    steps = steps_within(left, counts, speed, tuple(options.taus), workers)
    needed = sampling_seconds(steps, counts, speed, workers)
    report.budget = {"seconds": options.budget, "left": round(left, 2), "sampling": round(needed, 2)}
    return options.with_steps(steps)


def steps_within(
    seconds: float, counts: list[int], speed: Speed, taus: tuple[int, ...], workers: int = 1
) -> tuple[int, ...]:
    """The highest rung of LADDER that so many workers sample in this time; the lowest, no steps, always counts."""
    rungs = [tuple(min(pair) for pair in zip(rung, taus, strict=False)) for rung in LADDER]
    fitting = [rung for rung in rungs if sampling_seconds(rung, counts, speed, workers) <= seconds]
    return fitting[-1] if fitting else rungs[0]


def sampling_seconds(steps: tuple[int, ...], counts: list[int], speed: Speed, workers: int = 1) -> float:
    """Prompt and sampling of so many patches of each group."""
    each = [
        count * ((number > 0) * speed.prompt + number * speed.step) for count, number in zip(counts, steps, strict=True)
    ]
    return sum(each) / workers


def measure(engine: Engine, options: Options) -> Speed:
    """Times a few patches and one tile: what they hold doesn't matter to their cost."""
    model, generator = engine.model, np.random.default_rng(0)
    count, side = min(TRIAL_PATCHES, options.batch_size), model.patch
    trial = PatchSet(
        0,
        np.zeros((count, 2), np.int64),
        np.full(count, len(options.taus) - 1),
        generator.standard_normal((count, model.channels, side, side), np.float32),
        np.zeros((count, 1, side, side), np.float32),
    )
    seconds: dict[int, dict[str, float]] = {}
    for steps in (1, 2):  # the first pays for what is done once
        report = Report(engine.device, "", seed=0)
        last = options.with_steps((0,) * (len(options.taus) - 1) + (steps,))
        refine_patches(engine, trial, last, report.stage)
        seconds[steps] = {name: stage["seconds"] for name, stage in report.stages.items()}
    return Speed(seconds[2].get("prompt", 0.0) / count, seconds[2]["sample"] / (2 * count), _finish_seconds(engine))


def _finish_seconds(engine: Engine) -> float:
    """Decode, colour fix and compression of a square of noise, per latent: noise is the worst for the latter."""
    shape = (1, engine.model.channels, TRIAL_LATENTS, TRIAL_LATENTS)
    latents = np.random.default_rng(0).standard_normal(shape, np.float32)
    started = time.perf_counter()
    pixels = engine.decode(latents)
    fixed = wavelet_colour_fix(pixels, np.full_like(pixels, 0.5))
    zlib.compress(quantise(fixed, None, False, np.uint8).tobytes())
    return (time.perf_counter() - started) / TRIAL_LATENTS**2
