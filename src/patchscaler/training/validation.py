"""What the validations of training runs share."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from patchscaler.data.pairs import validation_pairs


def sheet(rows: list[list[Tensor]]) -> Image.Image:
    """Rows of equally sized pictures (1,3,H,W) in [0,1] side by side, at 100 %; short rows are filled up with black."""
    strips = [torch.cat([x.float().clamp(0, 1).cpu() for x in row], dim=3) for row in rows]
    width = max(strip.shape[3] for strip in strips)
    strips = [F.pad(strip, (0, width - strip.shape[3])) for strip in strips]
    pixels = torch.cat(strips, dim=2)[0].permute(1, 2, 0).mul(255).round()
    return Image.fromarray(pixels.numpy().astype(np.uint8))


ConditionedPair = tuple[str, dict[str, Tensor]]  # a degradation's name, and a picture with what was made of it


def conditioned_pairs(settings: Any, side: int) -> list[ConditionedPair]:
    """`settings.validation_count` pairs, as many under each degradation that `settings.pairs` draws, of centre crops
    of this side from all over the folder `settings.validation`."""
    conditions = [name for name, share in settings.pairs.mixture.items() if share > 0]
    each = max(1, settings.validation_count // len(conditions))
    chosen: list[ConditionedPair] = []
    for condition in conditions:
        pairs = validation_pairs(settings.validation, 0, condition, side=side)
        chosen += [(condition, pair) for pair in pairs[:: max(1, len(pairs) // each)][:each]]
    return chosen


def mean_figures(rows: Iterable[tuple[str, Mapping[str, float]]]) -> dict[str, float]:
    """Of each pair's condition and figures the means: FIGURE of all and, where there are several, FIGURE_CONDITION."""
    found: dict[str, list[float]] = {}
    rows = list(rows)
    several = len({condition for condition, _ in rows}) > 1
    for condition, figures in rows:
        for name, value in figures.items():
            for key in (name, *([f"{name}_{condition}"] if several else [])):
                found.setdefault(key, []).append(float(value))
    return {key: sum(values) / len(values) for key, values in found.items()}
