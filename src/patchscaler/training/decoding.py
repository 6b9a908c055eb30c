"""Predicted latents compared as pictures: squares of them, decoded, and what the losses make of these."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchscaler.imaging.geometry import STRIDE
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.models.patch_dit import PatchDiT, TextureCache
from patchscaler.models.restorer import ConvRestorer
from patchscaler.models.texture import TextureEncoder

_MARGIN = 2  # latents decoded around the compared ones, so that the decoder's zero padding isn't compared


def decode_square(autoencoder: DctAutoencoder, latents: Tensor, place: tuple[int, int], side: int) -> Tensor:
    """Pixels (n,3,8 side,8 side) of the latents [place, place + side), decoded with what lies around them."""
    around = F.pad(latents, (_MARGIN,) * 4, mode="replicate")
    rows, cols = (slice(start, start + side + 2 * _MARGIN) for start in place)
    decoded = autoencoder.decode(around[..., rows, cols].contiguous(memory_format=torch.channels_last))
    border = STRIDE * _MARGIN
    return decoded[..., border:-border, border:-border]


def pixel_square(pixels: Tensor, place: tuple[int, int], side: int) -> Tensor:
    """The pixels under the latents [place, place + side)."""
    rows, cols = (slice(STRIDE * start, STRIDE * (start + side)) for start in place)
    return pixels[..., rows, cols]


class Square(NamedTuple):
    """The part of a patch that is compared: latents [place, place + latents), and of their pixels those from `start`.

    VGG16 halves the sides at every second, fourth ... pixel. If squares always began at a latent, a pattern with just
    that period would look the same to it wherever it lies.
    """

    place: tuple[int, int]
    latents: int
    start: tuple[int, int]
    side: int

    @classmethod
    def draw(cls, patch: int, side: int, generator: torch.Generator) -> "Square":
        """`side` latents' worth of pixels of a patch of `patch` latents, anywhere in it."""
        latents = min(side + 1, patch)
        top, left = torch.randint(patch - latents + 1, (2,), generator=generator).tolist()
        row, col = torch.randint(STRIDE * (latents - side) or 1, (2,), generator=generator).tolist()
        return cls((top, left), latents, (row, col), STRIDE * side)

    def cut(self, pixels: Tensor) -> Tensor:
        """The compared pixels (n,3,side,side) of those of the latents."""
        rows, cols = (slice(start, start + self.side) for start in self.start)
        return pixels[..., rows, cols].contiguous(memory_format=torch.channels_last)


def grid_energy(residual: Tensor, period: int) -> Tensor:
    """How strongly a residual (n,c,H,W) repeats every `period` pixels: its energy per cell after averaging the cells.

    The variance of an ordinary residual; as many times more as there are cells for one that is the same in each. Losses
    that compare places one by one hardly see such a pattern, the eye sees it first.
    """
    rows, cols = (length // period for length in residual.shape[-2:])
    cells = residual[..., : rows * period, : cols * period].unflatten(-1, (cols, period)).unflatten(-3, (rows, period))
    mean = cells.mean(dim=(-4, -2))
    return rows * cols * (mean - mean.mean(dim=(-2, -1), keepdim=True)).square().mean()


class DecodingDenoiser(nn.Module):
    """Patch-DiT, its texture encoder, the decoder and perhaps the restorer: what is trained together."""

    def __init__(
        self, patch_dit: PatchDiT, encoder: TextureEncoder, autoencoder: DctAutoencoder, restorer: ConvRestorer | None
    ) -> None:
        super().__init__()
        self.patch_dit, self.encoder, self.autoencoder, self.restorer = patch_dit, encoder, autoencoder, restorer

    def texture(self, prompt: Any) -> TextureCache | None:
        """What Patch-DiT reads of retrieved textures and their similarities."""
        return None if prompt is None else self.patch_dit.texture_cache(self.encoder(*prompt))

    def forward(
        self, x_t: Tensor, t: Tensor, coarse: Tensor, log_error: Tensor, prompt: Any, place: tuple[int, int], side: int
    ) -> tuple[Tensor, Tensor]:
        """Predicted x0 (t < 0: the coarse patch as it is), and its pixels at latents [place, place + side)."""
        denoised = (t >= 0).nonzero().squeeze(1)
        x0 = coarse
        if len(denoised):
            texture = self.texture(None if prompt is None else [p[denoised] for p in prompt])
            args = (v[denoised] for v in (x_t, t, coarse, log_error))
            x0 = coarse.index_copy(0, denoised, self.patch_dit(*args, texture=texture))
        return x0, decode_square(self.autoencoder, x0, place, side)
