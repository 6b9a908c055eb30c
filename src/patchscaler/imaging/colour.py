"""Luma, and the wavelet colour fix: the result keeps its detail and takes its colours from the upsampled input."""

from typing import Any

import numpy as np
from numpy import ndarray

from patchscaler.imaging.shapes import Float

# Choice: one more than is usual: the band that five leave has noisy inputs' coarse grain in it (docs/lab/steps.md)
COLOUR_LEVELS = 6
WAVELET_REACH = 2**COLOUR_LEVELS - 1  # px: dilations 1 + 2 + 4 ...; the halo with which a tile gets the same values
_STRIP = 2**15  # pixels smoothed at a time, which stay in a core's cache over all levels


def rgb_to_y(pixels: Any) -> Any:
    """Studio-range luma of BT.601 (n,1,h,w), as MATLAB's rgb2ycbcr but unrounded; of an array or tensor (n,3,h,w).

    RGB in [0, 1] gives Y in [16/255, 235/255].
    """
    red, green, blue = pixels[:, 0:1], pixels[:, 1:2], pixels[:, 2:3]
    return (65.481 * red + 128.553 * green + 24.966 * blue + 16.0) / 255.0


def wavelet_colour_fix(
    result: Float[ndarray, "n 3 h w"], reference: Float[ndarray, "n 3 h w"], levels: int = COLOUR_LEVELS
) -> Float[ndarray, "n 3 h w"]:
    """High bands of `result` plus the low band of `reference`; both (N,3,H,W) float32 RGB in [0, 1], of one shape.

    The low band is what `levels` undecimated levels leave: kernel [1 2 1]/4 along both axes, dilated by 1, 2, 4, ...,
    the border replicated. The result may leave [0, 1] a little.
    A pixel depends on those at most 2^levels - 1 away (WAVELET_REACH by default).

    Raises ValueError if the shapes differ.
    """
    if result.shape != reference.shape:
        raise ValueError(f"result {result.shape} and reference {reference.shape} must have one shape")
    # The low pass is linear: result - low(result) + low(reference) = result + low(reference - result), so one pass.
    # And separable: all levels along one axis, then all along the other, strip by strip.
    low = reference - result
    height, width = low.shape[-2:]
    for plane in low.reshape(-1, height, width):
        rows = max(1, _STRIP // width)
        for top in range(0, height, rows):
            plane[top : top + rows] = _smooth(plane[top : top + rows].T, levels).T
        cols = max(1, _STRIP // height)
        for left in range(0, width, cols):
            plane[:, left : left + cols] = _smooth(plane[:, left : left + cols], levels)
    low += result
    return low


def _smooth(rows: Float[ndarray, "h w"], levels: int) -> Float[ndarray, "h w"]:
    """[1 2 1]/4 over the rows of a strip, taps 1, 2, 4, ... rows apart, border replicated."""
    rows = np.ascontiguousarray(rows)
    half = np.empty_like(rows)
    for level in range(levels):
        distance = 2**level
        np.multiply(rows, np.float32(0.5), out=half)
        rows *= np.float32(0.25)
        half[distance:] += rows[:-distance]
        half[:distance] += rows[:1]
        half[:-distance] += rows[distance:]
        half[-distance:] += rows[-1:]
        rows, half = half, rows
    return rows
