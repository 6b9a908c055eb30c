"""Transparency: colours for clear pixels, which a model must not mix in as they are, and an alpha without ripples."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

REACH = 1  # px: an edge lies between neighbours; what a model makes of it farther away is ripple


def extend_colours(pixels: Float[Tensor, "1 3 h w"], alpha: Float[Tensor, "1 1 h w"]) -> Float[Tensor, "1 3 h w"]:
    """The visible colours continued into the pixels of alpha 0; the others are kept exactly.

    Whatever a file has there (mostly black or white) would shine through as a fringe once enlargement mixes neighbours.
    Push and pull: means of the visible colours, weighted by alpha, at ever coarser levels; each hidden pixel takes the
    finest level that sees a visible one.
    """
    hidden = alpha <= 0
    if not hidden.any() or hidden.all():
        return pixels
    levels = [(pixels * alpha, alpha)]
    while max(levels[-1][1].shape[-2:]) > 1:
        levels.append(tuple(F.avg_pool2d(plane, 2, ceil_mode=True) for plane in levels[-1]))  # type: ignore[arg-type]
    colours, weight = levels.pop()
    known = colours / weight
    for colours, weight in reversed(levels):
        coarser = F.interpolate(known, size=colours.shape[-2:], mode="bilinear", align_corners=False)
        known = torch.where(weight > 0, colours / weight.clamp_min(1e-12), coarser)
    return torch.where(hidden, known.clamp(0, 1), pixels)


def bounded_alpha(
    large: Float[Tensor, "1 1 H W"], alpha: Float[Tensor, "1 1 h w"], wrap: bool = False
) -> Float[Tensor, "1 1 H W"]:
    """`large` cut to the range of `alpha` within REACH of each place: what is opaque or clear stays exactly so.

    wrap  across the borders, too
    """
    side = 2 * REACH + 1
    padded = F.pad(alpha, (REACH,) * 4, mode="circular" if wrap else "replicate")
    highest, lowest = F.max_pool2d(padded, side, stride=1), -F.max_pool2d(-padded, side, stride=1)
    size = large.shape[-2:]
    low, high = (F.interpolate(plane, size=size, mode="nearest-exact") for plane in (lowest, highest))
    return torch.minimum(torch.maximum(large, low.to(large.device)), high.to(large.device))
