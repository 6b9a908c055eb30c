"""Where the rendered picture goes: float pixels in memory, rounded samples that may lie in a file, or latents."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from patchscaler.imaging.geometry import Size
from patchscaler.imaging.picture import Picture, quantise
from patchscaler.stages.spill import Spill


class FloatCanvas:
    """pixels (1,3,H,W) float32 in [0,1]."""

    def __init__(self, size: Size) -> None:
        self.pixels: NDArray[np.float32] = np.empty((1, 3, *size), np.float32)

    def write(self, top: int, rows: NDArray[np.float32]) -> None:
        """Rows (1,3,h,W) in [0,1] from row `top` on."""
        self.pixels[..., top : top + rows.shape[-2], :] = rows


class LatentCanvas:
    """Nothing is drawn: the blended latents are the result, for somebody else to decode."""


class SampleCanvas:
    """Samples (H,W,C) as the result's file will hold them: 8 or 16 bits and grey like the picture."""

    def __init__(self, spill: Spill, size: Size, like: Picture) -> None:
        self.spill, self.grey = spill, like.grey
        self.dtype: type[np.uint8] | type[np.uint16] = np.uint16 if like.bits == 16 else np.uint8
        self.shape = (*size, 1 if like.grey else 3)

    def write(self, top: int, rows: NDArray[np.float32]) -> None:
        """As `FloatCanvas.write`."""
        samples = quantise(rows, None, self.grey, self.dtype)
        self._samples()[top : top + len(samples)] = samples

    @property
    def pixels(self) -> NDArray[Any]:
        """(1,3,H,W) uint8 or uint16; a view of the samples."""
        return np.broadcast_to(self._samples().transpose(2, 0, 1)[None], (1, 3, *self.shape[:2]))

    def _samples(self) -> NDArray[Any]:
        return self.spill.array("result", self.shape, self.dtype)


Canvas: TypeAlias = FloatCanvas | SampleCanvas | LatentCanvas
