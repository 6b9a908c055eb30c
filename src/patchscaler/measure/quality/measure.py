"""From folders of pictures to figures: each metric of each picture, means, and what each group of patches gained."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from patchscaler.measure.pairing import read_pixels
from patchscaler.measure.rows import Patches, Row, Section, mean
from patchscaler.metrics.choice import Metric
from patchscaler.metrics.lpips import Lpips

GAIN = "lpips_alex_gain"  # what group_figures calls the LPIPS of the restorer alone less that of the whole model


def measure(
    sections: Sequence[Section], metrics: Sequence[Metric], on_picture: Callable[[], None] = lambda: None
) -> None:
    """Fill in the values of all rows, picture by picture; what is known of a ground truth serves every row."""
    for section in sections:
        for row in section.rows:
            row.values |= {metric.name: {} for metric in metrics}
    known: dict[tuple[Path, Path | None], dict[str, float]] = {}  # a file may be part of several sections
    for stem in dict.fromkeys(stem for section in sections for stem in section.stems):
        known.clear()
        for section in (section for section in sections if stem in section.rows[0].files):
            reference = section.references[stem] if section.references is not None else None
            truth = None if reference is None else read_pixels(reference)
            scorers = {metric.name: metric.scorer(truth) for metric in metrics}
            for row in section.rows:
                key = (row.files[stem], reference)
                if key not in known:
                    picture = read_pixels(row.files[stem])
                    known[key] = {name: score(picture) for name, score in scorers.items()}
                for name, value in known[key].items():
                    row.values[name][stem] = value
                on_picture()


def group_figures(
    patches: Mapping[str, Patches],
    references: Mapping[str, Path],
    before: Row,
    after: Row,
    lpips: Lpips,
    on_picture: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, int | float]]:
    """LPIPS of each group's patches in two rows, by the group's name.

    A patch's LPIPS is the mean of the distance map over its box; every patch counts once.
    Returns {group: {"patches", "share", "before", "after", GAIN}}, the gain being before - after; a group without
    patches has values that are not numbers.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for stem, grouped in patches.items():
        found = {name: found.get(name, []) for name in grouped.names}
        truth = read_pixels(references[stem])
        on_picture()
        if min(truth.shape[2:]) < lpips.smallest:
            continue
        maps = [lpips_map(lpips, read_pixels(row.files[stem]), truth) for row in (before, after)]
        for group, *values in zip(grouped.groups, *(box_means(plane, grouped.boxes) for plane in maps), strict=True):
            found[grouped.names[group]].append((values[0], values[1]))
    total = sum(map(len, found.values()))
    figures = {}
    for name, pairs in found.items():
        old, new = mean(pair[0] for pair in pairs), mean(pair[1] for pair in pairs)
        share = len(pairs) / total if total else math.nan
        figures[name] = {"patches": len(pairs), "share": share, "before": old, "after": new, GAIN: old - new}
    return figures


@torch.no_grad()
def lpips_map(
    lpips: Lpips, picture: Float[Tensor, "1 3 h w"], truth: Float[Tensor, "1 3 h w"]
) -> Float[Tensor, "1 1 h w"]:
    """Where two pictures in [0,1] differ, see `Lpips.distance_map`; on the CPU."""
    device = lpips.shift.device
    return lpips.distance_map(lpips(picture.to(device)), lpips(truth.to(device)), *truth.shape[2:]).cpu()


def box_means(plane: Float[Tensor, "1 1 h w"], boxes: Sequence[tuple[int, int, int, int]]) -> list[float]:
    """Mean of a plane within each (top, left, height, width)."""
    return [float(plane[..., top : top + height, left : left + width].mean()) for top, left, height, width in boxes]
