"""As many steps as fit into a number of seconds, by this machine's measured speed."""

import math
import time
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from patchscaler.imaging.colour import wavelet_colour_fix
from patchscaler.imaging.picture import quantise
from patchscaler.inference.crew import Crew
from patchscaler.inference.parts import STRIDE
from patchscaler.inference.sampling import PatchSet
from patchscaler.inference.settings import LADDER, Settings
from patchscaler.models.latents import decode_tiled
from patchscaler.report import Report

TRIAL_PATCHES = 8
TRIAL_LATENTS = 32  # side of the square that is decoded and written for trial
# Choice: estimates are spent to this share, because other programs come and go.
SHARE = 0.9


class Speed(NamedTuple):
    """Seconds: of the prompt and of a step of one patch, and of the rest (decode to write) per latent."""

    prompt: float
    step: float
    finish: float


def keep_within(crew: Crew, report: Report, started: float) -> Callable[[Settings, Tensor], Settings]:
    """`adjust` of the way: settings with a budget get the most steps that let the picture be finished in time.

    started  time.perf_counter() from which the budget counts
    """

    def adjust(settings: Settings, groups: Tensor) -> Settings:
        if settings.budget is None:
            return settings
        speed = measure(crew, settings)
        latents = math.prod(report.output_size) / STRIDE**2
        left = SHARE * (settings.budget - (time.perf_counter() - started)) - speed.finish * latents
        counts = torch.bincount(groups, minlength=len(settings.taus)).tolist()
        steps = steps_within(left, counts, speed, settings.taus, crew.hands)
        needed = sampling_seconds(steps, counts, speed, crew.hands)
        report.budget = {"seconds": settings.budget, "left": round(left, 2), "sampling": round(needed, 2)}
        return settings.with_steps(steps)

    return adjust


def steps_within(
    seconds: float, counts: list[int], speed: Speed, taus: tuple[int, ...], hands: int = 1
) -> tuple[int, ...]:
    """The highest rung of LADDER that `hands` workers sample in this time; the lowest, no steps, always counts."""
    rungs = [tuple(min(pair) for pair in zip(rung, taus, strict=False)) for rung in LADDER]
    fitting = [rung for rung in rungs if sampling_seconds(rung, counts, speed, hands) <= seconds]
    return fitting[-1] if fitting else rungs[0]


def sampling_seconds(steps: tuple[int, ...], counts: list[int], speed: Speed, hands: int = 1) -> float:
    """Prompt and sampling of so many patches of each group."""
    each = [
        count * ((number > 0) * speed.prompt + number * speed.step) for count, number in zip(counts, steps, strict=True)
    ]
    return sum(each) / hands


def measure(crew: Crew, settings: Settings) -> Speed:
    """Times a few patches and one tile: what they hold doesn't matter to their cost."""
    parts, generator = crew.parts, torch.Generator().manual_seed(0)
    channels = int(parts.patch_dit.config["latent_channels"])
    count, side = min(TRIAL_PATCHES, settings.batch_size), parts.patch
    trial = PatchSet(
        0,
        torch.zeros(count, 2, dtype=torch.int64),
        torch.full((count,), len(settings.taus) - 1),
        torch.randn(count, channels, side, side, generator=generator),
        torch.zeros(count, 1, side, side),
    )
    seconds: dict[int, dict[str, float]] = {}
    for steps in (1, 2):  # the first pays for what is done once
        report = Report(device=str(parts.device), dtype="", seed=0)
        crew.refiner(trial, settings.with_steps((0,) * (len(settings.taus) - 1) + (steps,)), report.stage)
        seconds[steps] = {name: stage["seconds"] for name, stage in report.stages.items()}
    return Speed(seconds[2].get("prompt", 0.0) / count, seconds[2]["sample"] / (2 * count), _finish_seconds(crew))


def _finish_seconds(crew: Crew) -> float:
    """Decode, colour fix and compression of a square of noise, per latent: noise is the worst for the latter."""
    channels = int(crew.parts.patch_dit.config["latent_channels"])
    latents = torch.randn(1, channels, TRIAL_LATENTS, TRIAL_LATENTS, device=crew.parts.device)
    started = time.perf_counter()
    with torch.inference_mode():
        pixels = decode_tiled(crew.parts.autoencoder, latents)
        fixed = wavelet_colour_fix(pixels, torch.full_like(pixels, 0.5))
    zlib.compress(quantise(fixed, None, False, np.uint8).tobytes())
    return (time.perf_counter() - started) / latents[0, 0].numel()
