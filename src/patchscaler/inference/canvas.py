"""Where the picture goes: float pixels in memory, rounded samples on a shelf, or its latents."""

from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from patchscaler.imaging.geometry import Size
from patchscaler.imaging.picture import Picture, quantise
from patchscaler.inference.shelf import Shelf


class FloatCanvas:
    """pixels (1,3,H,W), and alpha (1,1,H,W) or None, float32 in [0,1]."""

    def __init__(self, size: Size, device: torch.device, with_alpha: bool) -> None:
        self.pixels = torch.empty(1, 3, *size, device=device)
        self.alpha = torch.empty(1, 1, *size) if with_alpha else None

    def write(self, top: int, pixels: Tensor, alpha: Tensor | None) -> None:
        rows = slice(top, top + pixels.shape[-2])
        self.pixels[..., rows, :] = pixels
        if self.alpha is not None and alpha is not None:
            self.alpha[..., rows, :] = alpha


class LatentCanvas:
    """latents (1,c,h,w) float32, blended, of pictures that somebody else will decode."""

    latents: Tensor


class SampleCanvas:
    """Samples (H,W,C) as the result's file will hold them: 8 or 16 bits and grey like the picture, alpha last."""

    def __init__(self, shelf: Shelf, size: Size, like: Picture) -> None:
        self.shelf, self.grey = shelf, like.grey
        self.dtype: type[np.uint8] | type[np.uint16] = np.uint16 if like.bits == 16 else np.uint8
        self.colours = 1 if like.grey else 3
        self.shape = (*size, self.colours + (like.alpha is not None))

    def write(self, top: int, pixels: Tensor, alpha: Tensor | None) -> None:
        samples = quantise(pixels, alpha, self.grey, self.dtype)
        self._samples()[top : top + len(samples)] = samples

    @property
    def pixels(self) -> Tensor:
        """(1,3,H,W) uint8 or uint16; a view of the samples."""
        planes = torch.from_numpy(self._samples()).permute(2, 0, 1)[None, : self.colours]
        return planes.expand(-1, 3, -1, -1)

    @property
    def alpha(self) -> Tensor | None:
        """(1,1,H,W) or None."""
        if self.shape[2] == self.colours:
            return None
        return torch.from_numpy(self._samples()).permute(2, 0, 1)[None, self.colours :]

    def _samples(self) -> Any:
        return self.shelf.array("result", self.shape, self.dtype)


# `write(top, pixels, alpha)` of the first two takes rows (1,3,h,W) in [0,1] from row `top` on, and alpha (1,1,h,W).
Canvas: TypeAlias = FloatCanvas | SampleCanvas | LatentCanvas
