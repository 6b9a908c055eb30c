"""Bicubic resizing by Pillow, on float pictures."""

import numpy as np
from numpy import ndarray
from PIL import Image

from patchscaler.imaging.geometry import Size
from patchscaler.imaging.shapes import Float

CUBIC_REACH = 3  # px: a cubic's support on each side, and one more for what lies between two pixels


def resize_bicubic(pixels: Float[ndarray, "n c h w"], size: Size, clamp: bool = False) -> Float[ndarray, "n c h2 w2"]:
    """Resize `pixels` (N,C,H,W) to `size`, half-pixel centres: Keys' cubic with a = -0.5, its support widened by the
    factor when shrinking.

    clamp  cut the cubic's overshoot to [0, 1]; without it the result may leave the input's range by about 15 %.

    Raises ValueError if a side of `size` is below 1.
    """
    if min(size) < 1:
        raise ValueError(f"cannot resize to {size.height}x{size.width}: both sides must be at least 1")
    resized = np.empty((*pixels.shape[:2], *size), np.float32)
    for plane, out in zip(pixels.reshape(-1, *pixels.shape[-2:]), resized.reshape(-1, *size), strict=True):
        image = Image.fromarray(np.ascontiguousarray(plane, np.float32))  # mode "F"
        out[:] = np.asarray(image.resize((size.width, size.height), Image.Resampling.BICUBIC))
    return resized.clip(0.0, 1.0, out=resized) if clamp else resized


def enlarge_rows(pixels: Float[ndarray, "n c h w"], factor: int, top: int, bottom: int) -> Float[ndarray, "n c h2 w2"]:
    """Rows [top, bottom) of `pixels` resized to `factor` times their size, from the rows that they depend on alone.

    Equal to those rows of `resize_bicubic`, up to rounding. Raises ValueError for rows that are not there.
    """
    height, width = pixels.shape[-2:]
    if not 0 <= top < bottom <= factor * height:
        raise ValueError(f"rows {top} to {bottom} are not among the {factor * height} of the result")
    first, last = max(top // factor - CUBIC_REACH, 0), min(-(-bottom // factor) + CUBIC_REACH, height)
    part = resize_bicubic(pixels[..., first:last, :], Size(factor * (last - first), factor * width))
    return part[..., top - factor * first : bottom - factor * first, :]
