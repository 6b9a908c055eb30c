"""What adaptive steps save and cost: PGS against uniform steps over a folder of sharp pictures."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from patchscaler.errors import ConfigError
from patchscaler.imaging.files import find_pictures, read_picture
from patchscaler.imaging.geometry import SCALE, Size
from patchscaler.imaging.resize import resize_bicubic
from patchscaler.integrations.diffusers.pipeline import PatchScalerPipeline
from patchscaler.measure.speed.settings import ADAPTIVE, BASELINES, UNIFORM
from patchscaler.metrics.fidelity import psnr_y
from patchscaler.metrics.lpips import load_lpips
from patchscaler.pgs.groups import GroupConfig

# (result, original), each (1,3,H,W) float32 RGB in [0,1] -> a figure that falls as the result gets better, e.g. LPIPS.
Quality = Callable[[Tensor, Tensor], float]


def lpips_quality() -> Quality:
    """LPIPS (alex). Raises WeightsError where its convolutions are not installed."""
    lpips = load_lpips("alex")

    def quality(result: Tensor, original: Tensor) -> float:
        return float(lpips.distance(lpips(result), lpips(original)))

    return quality


def compare(
    pipeline: PatchScalerPipeline,
    folder: Path,
    *,
    quality: Quality | None = None,
    steps: Sequence[int] = GroupConfig().steps,
    batch_size: int = 64,
    notify: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Shrink every picture of `folder` to a quarter and enlarge it both ways, in turns, after one unmeasured round.

    quality  see `Quality`; None leaves its figures out

    Returns for "uniform" (20 steps from 1000 for every patch) and "adaptive": sample_seconds and patch_steps in all,
    mean psnr_y and quality; further "pictures", each one's figures; time_ratio, quality_change (adaptive / uniform - 1,
    above 0 is worse) and mean_difference of the results in [0,1]. Raises ConfigError for a folder without pictures.
    """
    paths = find_pictures([folder])
    if not paths:
        raise ConfigError(f"{folder}: holds no pictures to compare PGS on")
    methods = {UNIFORM: BASELINES[UNIFORM], ADAPTIVE: GroupConfig(steps=tuple(steps))}
    pictures = []
    for number, path in enumerate(paths):
        notify(f"PGS against uniform: {path.name} ({number + 1} of {len(paths)})")
        original = _whole_cells(torch.from_numpy(read_picture(path).pixels))
        size = Size(original.shape[-2] // SCALE, original.shape[-1] // SCALE)
        small = torch.from_numpy(resize_bicubic(original.numpy(), size, clamp=True))
        if not number:  # the first round sets libraries up
            pipeline(small[0], output_type="pt", steps=(1, 1, 1), batch_size=batch_size)
        entry: dict[str, Any] = {"picture": path.name}
        results = {}
        for method, groups in methods.items():
            output: Any = pipeline(
                small[0], output_type="pt", steps=groups.steps, taus=groups.taus, batch_size=batch_size
            )
            results[method] = output.images.float().cpu()
            entry[method] = _figures(results[method], original, output.report.as_dict(), quality)
        entry["mean_difference"] = (results[ADAPTIVE] - results[UNIFORM]).abs().mean().item()
        pictures.append(entry)
    return _summary(pictures, list(methods))


def _whole_cells(pixels: Float[Tensor, "1 3 H W"]) -> Float[Tensor, "1 3 h w"]:
    """Cut so that both sides divide by the scale. Raises ConfigError if nothing is left."""
    height, width = (side // SCALE * SCALE for side in pixels.shape[-2:])
    if not (height and width):
        raise ConfigError(f"a picture of {pixels.shape[-2]}x{pixels.shape[-1]} is too small to be shrunk x{SCALE}")
    return pixels[..., :height, :width]


def _figures(result: Tensor, original: Tensor, report: dict[str, Any], quality: Quality | None) -> dict[str, Any]:
    figures = {
        "sample_seconds": report["stages"]["sample"]["seconds"],
        "patch_steps": report["patch_steps"],
        "psnr_y": psnr_y(result, original),
    }
    return figures if quality is None else figures | {"quality": float(quality(result, original))}


def _summary(pictures: list[dict[str, Any]], methods: list[str]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for method in methods:
        rows = [entry[method] for entry in pictures]
        summary[method] = {key: sum(row[key] for row in rows) for key in ("sample_seconds", "patch_steps")}
        for key in set(rows[0]) & {"psnr_y", "quality"}:
            summary[method][key] = statistics.fmean(row[key] for row in rows)
    summary["time_ratio"] = summary[ADAPTIVE]["sample_seconds"] / summary[UNIFORM]["sample_seconds"]
    if "quality" in summary[UNIFORM]:
        summary["quality_change"] = summary[ADAPTIVE]["quality"] / summary[UNIFORM]["quality"] - 1
    summary["mean_difference"] = statistics.fmean(entry["mean_difference"] for entry in pictures)
    return summary | {"pictures": pictures}
