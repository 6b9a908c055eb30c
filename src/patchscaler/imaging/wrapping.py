"""Textures that tile: beyond each border lies the opposite side of the picture.

The picture is padded with itself, enlarged as any other, and cut out again; where it begins, it fades in from what was
made of the same places beyond the opposite border, which is what continues there.
"""

import math

import numpy as np
from numpy import ndarray

from patchscaler.imaging.geometry import SCALE, STRIDE, Size
from patchscaler.imaging.shapes import Float, Int64

MARGIN = 32  # px of the picture: the networks see about as far, and a patch is as wide
FADE = 16  # px of the picture

Boxes = list[tuple[int, int, int, int]]


def pad_wrapped(pixels: Float[ndarray, "n c h w"]) -> Float[ndarray, "n c H W"]:
    """The picture with MARGIN more on each side: of itself."""
    return np.pad(pixels, ((0, 0), (0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)), mode="wrap")


def cut_wrapped(
    pixels: Float[ndarray, "n c H W"], before: Size, scale: int | float = SCALE
) -> Float[ndarray, "n c h w"]:
    """Of a padded picture, `scale` times as large, without the margin, continuous across its borders; `before`: the
    picture's size."""
    margin, fade = round(MARGIN * scale), round(FADE * scale)
    for axis, length in ((-2, math.ceil(before.height * scale)), (-1, math.ceil(before.width * scale))):
        width = min(fade, length)
        moved = np.moveaxis(pixels, axis, -1)
        inside, beyond = moved[..., margin : margin + length].copy(), moved[..., margin + length :][..., :width]
        ramp = (0.5 + 0.5 * np.cos(math.pi * (np.arange(width) + 0.5) / width)).astype(np.float32)
        inside[..., :width] += ramp * (beyond - inside[..., :width])
        pixels = np.moveaxis(inside, -1, axis)
    return np.ascontiguousarray(pixels)


def cut_confidence(confidence: Float[ndarray, "1 1 H W"], before: Size) -> Float[ndarray, "1 1 h w"]:
    """The same on the grid of latents."""
    start, size = MARGIN * SCALE // STRIDE, before.latents()
    return confidence[..., start : start + size.height, start : start + size.width]


def cut_patches(groups: Int64[ndarray, "rows cols"], boxes: Boxes, before: Size) -> tuple[ndarray, Boxes]:
    """Groups and boxes of the patches that reach into the picture, from its corner on."""
    margin, cols = MARGIN * SCALE, groups.shape[1]
    moved = [(top - margin, left - margin, high, wide) for top, left, high, wide in boxes]
    rows_in = [top + high > 0 and top < SCALE * before.height for top, _, high, _ in moved[::cols]]
    cols_in = [left + wide > 0 and left < SCALE * before.width for _, left, _, wide in moved[:cols]]
    kept = [box for n, box in enumerate(moved) if rows_in[n // cols] and cols_in[n % cols]]
    return groups[rows_in][:, cols_in], kept


def resize_wrapped(pixels: Float[ndarray, "n c h w"], size: Size) -> Float[ndarray, "n c h2 w2"]:
    """`resize_bicubic` of a picture that tiles, clamped to [0, 1]; its four corners stay where they are."""
    for axis, after in ((-2, size.height), (-1, size.width)):
        before = pixels.shape[axis]
        step = before / after
        stretch = max(step, 1.0)  # of the cubic, where it shrinks
        centres = (np.arange(after) + 0.5) * step - 0.5
        places = np.ceil(centres - 2 * stretch)[:, None] + np.arange(math.ceil(4 * stretch) + 1)
        weights = _cubic(np.abs(places - centres[:, None]) / stretch)
        weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
        moved, places = np.moveaxis(pixels, axis, -1), places.astype(int) % before
        made = sum(weights[:, tap] * moved[..., places[:, tap]] for tap in range(places.shape[1]))
        pixels = np.moveaxis(np.asarray(made), -1, axis)
    return np.ascontiguousarray(pixels.clip(0, 1))


def _cubic(distance: ndarray) -> ndarray:
    """Keys' cubic with a = -0.5, as in `resize_bicubic`."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
