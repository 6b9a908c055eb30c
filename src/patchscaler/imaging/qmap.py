"""The qmap: which patches of a picture were simple, medium and hard, drawn over the picture."""

import bisect
from collections.abc import Sequence

import numpy as np
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont

from patchscaler.imaging.picture import luma, to_pil
from patchscaler.imaging.shapes import Float, Int64

# Blue, yellow, vermilion, bluish green of Okabe and Ito: told apart with any colour vision, and by their lightness.
COLOURS = ((0, 114, 178), (240, 228, 66), (213, 94, 0), (0, 158, 115))
OPACITY = 0.45
PAPER, INK = (255, 255, 255), (32, 32, 32)


def draw_qmap(
    pixels: Float[ndarray, "1 3 h w"],
    groups: Int64[ndarray, " B"],
    boxes: Sequence[tuple[int, int, int, int]],
    names: Sequence[str],
) -> Image.Image:
    """The picture in muted greys under its groups' colours, above a legend with each group's share of the patches.

    pixels   (1,3,H,W) in [0, 1]
    groups   number of each patch's group, an index into `names`
    boxes    (top, left, height, width) of each patch in pixels, in the order of `groups`: all places of a grid
    names    of the groups, at most four
    returns  RGB, W wide or as wide as the legend, higher than H by the legend

    Where patches overlap, a pixel has the colour of the patch with the nearest centre.
    Raises ValueError where groups, boxes and names do not fit together.
    """
    if not len(groups) == len(boxes) > 0 or len(names) > len(COLOURS):
        raise ValueError(f"{len(groups)} groups, {len(boxes)} boxes and {len(names)} names do not make a map")
    lowest, highest = int(groups.min()), int(groups.max())
    if not 0 <= lowest <= highest < len(names):
        raise ValueError(f"groups reach from {lowest} to {highest}, but there are {len(names)} names")
    height, width = pixels.shape[-2:]
    nearest = _nearest_groups(groups, boxes, height, width)
    base = (1 - OPACITY) * luma(*pixels[0])
    tints = OPACITY * np.array(COLOURS, np.float32) / 255
    painted = to_pil(np.stack([base + tint[nearest] for tint in tints.T])[None])

    legend = _legend(np.bincount(groups, minlength=len(names)).tolist(), names, width)
    canvas = Image.new("RGB", (max(width, legend.width), height + legend.height), PAPER)
    canvas.paste(painted, (0, 0))
    canvas.paste(legend, (0, height))
    return canvas


def _nearest_groups(
    groups: Int64[ndarray, " B"], boxes: Sequence[tuple[int, int, int, int]], height: int, width: int
) -> Int64[ndarray, "h w"]:
    """Group of the nearest patch for every pixel. Centres form a grid, so the nearest row and column make the patch."""
    centres = [(top + high / 2, left + wide / 2) for top, left, high, wide in boxes]
    rows, cols = sorted({y for y, _ in centres}), sorted({x for _, x in centres})
    if not len(centres) == len(set(centres)) == len(rows) * len(cols):
        raise ValueError(f"{len(boxes)} boxes are not the {len(rows)} x {len(cols)} places of a grid")
    grid = np.empty((len(rows), len(cols)), np.int64)
    for (y, x), group in zip(centres, groups.tolist(), strict=True):
        grid[bisect.bisect_left(rows, y), bisect.bisect_left(cols, x)] = group
    return grid[_nearest(rows, height)[:, None], _nearest(cols, width)]


def _nearest(centres: list[float], length: int) -> Int64[ndarray, " length"]:
    """Index of the nearest of the sorted `centres` for each pixel of a side."""
    places = np.array(centres)
    return np.searchsorted((places[1:] + places[:-1]) / 2, np.arange(length) + 0.5)


def _legend(counts: list[int], names: Sequence[str], width: int) -> Image.Image:
    """A strip with a patch of colour, the name and the share of every group; the text grows with `width`."""
    size = min(max(width // 40, 11), 32)
    font = ImageFont.load_default(size)
    labels = [f"{name} {100 * count / sum(counts):.0f} %" for name, count in zip(names, counts, strict=True)]
    ends = [round(font.getlength(label)) + 3 * size for label in labels]  # swatch, gap, text, gap
    strip = Image.new("RGB", (max(width, sum(ends) + size), 2 * size), PAPER)
    draw = ImageDraw.Draw(strip)
    left = size
    for label, colour, end in zip(labels, COLOURS, ends, strict=False):
        swatch = tuple(round(OPACITY * value + (1 - OPACITY) * 160) for value in colour)  # as over a mid-tone
        draw.rectangle((left, size // 2, left + size - 1, size // 2 + size - 1), swatch)
        draw.text((left + round(1.5 * size), size), label, INK, font, anchor="lm")
        left += end
    return strip
