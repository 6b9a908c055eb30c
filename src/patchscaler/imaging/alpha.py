"""Transparency: colours for clear pixels, which a model must not mix in as they are, and an alpha without ripples."""

import numpy as np
from numpy import ndarray
from PIL import Image

from patchscaler.imaging.geometry import Size
from patchscaler.imaging.shapes import Float

REACH = 1  # px: an edge lies between neighbours; what a model makes of it farther away is ripple


def extend_colours(pixels: Float[ndarray, "1 3 h w"], alpha: Float[ndarray, "1 1 h w"]) -> Float[ndarray, "1 3 h w"]:
    """The visible colours continued into the pixels of alpha 0; the others are kept exactly.

    Whatever a file has there (mostly black or white) would shine through as a fringe once enlargement mixes neighbours.
    Push and pull: means of the visible colours, weighted by alpha, at ever coarser levels; each hidden pixel takes the
    finest level that sees a visible one.
    """
    hidden = alpha <= 0
    if not hidden.any() or hidden.all():
        return pixels
    levels = [np.concatenate([pixels * alpha, alpha], axis=1)[0]]
    while max(levels[-1].shape[-2:]) > 1:
        levels.append(_halved(levels[-1]))
    *finer, (*colours, weight) = levels
    known = np.stack(colours) / weight
    for *colours, weight in reversed(finer):
        coarser = _enlarged(known, Size(*weight.shape))
        known = np.where(weight > 0, np.stack(colours) / np.maximum(weight, 1e-12), coarser)
    return np.where(hidden, known.clip(0, 1)[None], pixels)


def bounded_alpha(
    large: Float[ndarray, "1 1 H W"], alpha: Float[ndarray, "1 1 h w"], wrap: bool = False
) -> Float[ndarray, "1 1 H W"]:
    """`large` cut to the range of `alpha` within REACH of each place: what is opaque or clear stays exactly so.

    wrap  across the borders, too
    """
    padded = np.pad(alpha[0, 0], REACH, mode="wrap" if wrap else "edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, (2 * REACH + 1, 2 * REACH + 1))
    rows, cols = (
        ((np.arange(after) + 0.5) * before / after).astype(int)
        for after, before in zip(large.shape[-2:], alpha.shape[-2:], strict=True)
    )
    lowest, highest = (bound[rows][:, cols] for bound in (around.min(axis=(2, 3)), around.max(axis=(2, 3))))
    return large.clip(lowest, highest)


def _halved(planes: Float[ndarray, "c h w"]) -> Float[ndarray, "c h2 w2"]:
    """Sums of 2x2 cells; outside there is nothing."""
    planes = np.pad(planes, ((0, 0), (0, planes.shape[1] % 2), (0, planes.shape[2] % 2)))
    return planes[:, ::2, ::2] + planes[:, 1::2, ::2] + planes[:, ::2, 1::2] + planes[:, 1::2, 1::2]


def _enlarged(planes: Float[ndarray, "c h w"], size: Size) -> Float[ndarray, "c h2 w2"]:
    """Bilinear."""
    images = (Image.fromarray(np.ascontiguousarray(plane, np.float32)) for plane in planes)
    return np.stack([image.resize((size.width, size.height), Image.Resampling.BILINEAR) for image in images])
