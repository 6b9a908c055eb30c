"""The second restorer of the GRM: a large residual-in-residual dense network (RRDB) that ends in our latents.

Source: Wang et al., "ESRGAN" (2018) and "Real-ESRGAN" (2021); its weights begin as Real-ESRGAN x4plus's
(training/published.py). It has ten times the first restorer's parameters and tells noise from texture where the first
one can't; it is asked only if that is expected to pay (models/fusion.py).

Choice: the published network draws a picture, which our encoder, an affine map, would turn into latents. Both last maps
are linear, so they are one convolution here, and no picture at full size is made.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from patchscaler.models.base import ConfigMixin, ModelMixin, register_to_config

_SLOPE = 0.2  # of all leaky ReLUs
_RESIDUAL = 0.2  # share of a block's output that is added to its input


class DenseBlock(nn.Module):
    """Five convolutions, each of which reads the input and what all before it made; a fifth of the last is added."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        outputs = (growth, growth, growth, growth, width)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width + i * growth, channels, 3, padding=1) for i, channels in enumerate(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        known = x
        for convolution in self.convolutions[:-1]:
            known = torch.cat([known, F.leaky_relu(convolution(known), _SLOPE)], dim=1)
        return x + _RESIDUAL * self.convolutions[-1](known)


class ResidualDenseBlock(nn.Sequential):
    """Three dense blocks; a fifth of what they make is added to their input (RRDB)."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__(*(DenseBlock(width, growth) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        return x + _RESIDUAL * super().forward(x)


class SecondOpinion(NamedTuple):
    """latents (n,c,h,w): of the picture as this network would draw it; features (n,width,2h,2w): what it drew it of."""

    latents: Tensor
    features: Tensor


class RrdbRestorer(ModelMixin, ConfigMixin):
    """LR pixels -> latents at stride 8 of the picture enlarged x4.

    parameter       | meaning
    ----------------|------------------------------------------------
    latent_channels | c of the autoencoder
    width, growth   | channels of the trunk, and that each convolution of a dense block adds
    blocks          | residual dense blocks; 23 in Real-ESRGAN x4plus

    It sees 15 LR pixels further with every block; docs/second-restorer.md says how much of that matters.
    """

    @register_to_config
    def __init__(self, latent_channels: int = 32, width: int = 64, growth: int = 32, blocks: int = 23) -> None:
        super().__init__()
        self.entry = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*(ResidualDenseBlock(width, growth) for _ in range(blocks)))
        self.close = nn.Conv2d(width, width, 3, padding=1)
        self.rise = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.fine = nn.Conv2d(width, width, 3, padding=1)
        self.exit = nn.Conv2d(width, latent_channels, 10, stride=8, padding=1)

    def forward(self, pixels: Float[Tensor, "n 3 height width"]) -> SecondOpinion:
        """RGB in [0,1], even sides -> SecondOpinion, float32."""
        if pixels.shape[-2] % 2 or pixels.shape[-1] % 2:
            raise ValueError(f"sides {tuple(pixels.shape[-2:])} must be even")
        entered = self.entry(pixels.to(self.entry.weight.dtype))
        return self.finish(entered, self.body(entered))

    def finish(self, entered: Tensor, trunk: Tensor) -> SecondOpinion:
        """From the first convolution's and the last block's output (n,width,2h,2w)."""
        features = entered + self.close(trunk)
        x = features
        for convolution in self.rise:
            x = F.leaky_relu(convolution(F.interpolate(x, scale_factor=2, mode="nearest")), _SLOPE)
        return SecondOpinion(self.exit(F.leaky_relu(self.fine(x), _SLOPE)).float(), features)
