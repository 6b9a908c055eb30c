"""The truncated block DCT whose normalised coefficients are the latents of the `tiny` model."""

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchscaler.imaging.geometry import STRIDE
from patchscaler.imaging.shapes import Array

# JPEG's full-range YCbCr (BT.601), rows Y, Cb, Cr; chroma is centred on 0.
_RGB_TO_YCBCR = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


@dataclass(frozen=True)
class BlockDct:
    """Kept coefficients of Y and of each of Cb, Cr in blocks of 8x8 pixels; mean and standard deviation of each."""

    luma: int
    chroma: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def statistics(self) -> tuple[Array, Array]:
        """Mean and standard deviation (c,1,1)."""
        mean, std = (np.array(values, np.float32)[:, None, None] for values in (self.mean, self.std))
        return mean, std

    def inverse(self, latents: Array, side: int) -> Array:
        """Latents (n,c,h,w) -> (n,3,side h,side w) by their lowest frequencies: 1, 2, 4 or 8 pixels each."""
        _, synthesis = dct_bases(self.luma, self.chroma, side)
        mean, std = self.statistics
        n, _, height, width = latents.shape
        blocks = np.tensordot(latents * std + mean, synthesis, axes=(1, 0))  # (n,h,w,3,side,side)
        return blocks.transpose(0, 3, 1, 4, 2, 5).reshape(n, 3, side * height, side * width)


@functools.lru_cache
def dct_bases(luma: int, chroma: int, side: int) -> tuple[Array, Array]:
    """Analysis kernels (c,3,8,8) and synthesis kernels (c,3,side,side) of the truncated block DCT in YCbCr.

    c = luma + 2 chroma. With fewer than 8 pixels a side the blocks are drawn small, as by decoders of JPEG files: of
    their lowest frequencies, while the kernels of the others are 0.
    """
    dct = _dct_matrix(STRIDE)
    small = np.zeros((STRIDE, side))
    small[:side] = _dct_matrix(side) * (side / STRIDE) ** 0.5
    ycbcr_to_rgb = np.linalg.inv(_RGB_TO_YCBCR)
    analysis, synthesis = [], []
    for plane, count in enumerate((luma, chroma, chroma)):
        for i, j in _lowest_frequencies(count):
            analysis.append(_RGB_TO_YCBCR[plane][:, None, None] * np.outer(dct[i], dct[j]))
            synthesis.append(ycbcr_to_rgb[:, plane][:, None, None] * np.outer(small[i], small[j]))
    return np.stack(analysis).astype(np.float32), np.stack(synthesis).astype(np.float32)


def _dct_matrix(n: int) -> NDArray[np.float64]:
    """Orthonormal DCT-II, (frequency, position)."""
    frequency, position = np.arange(n)[:, None], np.arange(n)[None]
    matrix = np.cos(math.pi * (2 * position + 1) * frequency / (2 * n)) * math.sqrt(2 / n)
    matrix[0] /= math.sqrt(2)
    return matrix


def _lowest_frequencies(count: int) -> list[tuple[int, int]]:
    """The `count` lowest (row, column) frequencies of an 8x8 block by distance from the origin."""
    grid = [(i, j) for i in range(STRIDE) for j in range(STRIDE)]
    return sorted(grid, key=lambda p: (p[0] ** 2 + p[1] ** 2, p))[:count]
