"""The Global Restoration Module whole: one restorer, or two with the fusion that decides which of them are asked."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from patchscaler.models.fusion import Fusion
from patchscaler.models.latents import restorer_input
from patchscaler.models.restorer import Restoration
from patchscaler.models.rrdb import RrdbRestorer
from patchscaler.pgs.gate import fused_share


@dataclass(frozen=True)
class GlobalRestoration:
    """LR pictures in [0,1] of any size -> coarse latents and log error at ceil(height / 2) x ceil(width / 2), float32.

    restorer         ConvRestorer; SwinRestorer, too, where it is alone
    autoencoder      of its latents
    second, fusion   both or none
    """

    restorer: Any
    autoencoder: Any
    second: RrdbRestorer | None = None
    fusion: Fusion | None = None

    def __call__(self, pixels: Float[Tensor, "n 3 height width"], denoise: float | None = None) -> Restoration:
        """Whole pictures at once, each asked about on its own; `Upscaler.restore` does the same tile by tile."""
        first, gain = self.first(pixels)
        if gain is None or denoise == 0:
            return first
        assert self.fusion is not None
        gate = self.fusion.gate
        levels = [gate.denoise(own) if denoise is None else denoise for own in gain.detach().cpu().numpy()[:, None]]
        shares, leans = torch.tensor([fused_share(level) for level in levels], device=pixels.device).T
        rows = shares.nonzero().flatten()
        if not len(rows):
            return first
        share, lean = (values[rows, None, None, None] for values in (shares, leans))
        pairs = zip(first, self.fused(pixels[rows], lean), strict=True)
        return Restoration(*(one.index_copy(0, rows, torch.lerp(one[rows], both, share)) for one, both in pairs))

    def first(self, pixels: Float[Tensor, "n 3 height width"]) -> tuple[Restoration, Tensor | None]:
        """By the first restorer alone, and the gain to be expected of the second one (None: there is none)."""
        even = _even(pixels)
        if self.fusion is None:
            return self.restorer(restorer_input(self.restorer, self.autoencoder, even)), None
        first, features = self.restorer(even, with_features=True)
        return first, self.fusion(features)

    def fused(self, pixels: Float[Tensor, "n 3 height width"], lean: float | Tensor = 0.0) -> Restoration:
        """By both restorers, everywhere; lean: see Fusion."""
        assert self.second is not None
        assert self.fusion is not None
        even = _even(pixels).contiguous(memory_format=torch.channels_last)
        first, features = self.restorer(even, with_features=True)
        return self.fusion(features, first, self.second(even), lean)


def _even(pixels: Tensor) -> Tensor:
    """With the last row and column repeated where a side is odd."""
    return nn.functional.pad(pixels, (0, pixels.shape[-1] % 2, 0, pixels.shape[-2] % 2), mode="replicate")
