"""Noise that belongs to the place: one endless field per seed, of which any crop can be drawn on its own."""

import torch
from jaxtyping import Float
from torch import Tensor

from patchscaler.diffusion.field import place_field


def place_noise(
    seed: int, channels: int, top: int, left: int, height: int, width: int
) -> Float[Tensor, "1 {channels} {height} {width}"]:
    """Crop the standard normal field of `seed` at rows [top, top + height) and columns [left, left + width).

    Every value depends on (seed, channel, row, column) alone: neither on the crop nor on the number of channels. So the
    result is the same for any batch size, order, tile, device count or resume, and overlapping patches share noise.

    seed     in [0, 2**63)
    returns  float32 on the CPU

    Raises ConfigError for a seed out of range, a negative place or an empty crop.
    """
    return torch.from_numpy(place_field(seed, channels, top, left, height, width)[None])


class NoiseSource:
    """The draws of one call in turn: from the field of `seed`, or from `generator` as diffusers draws them.

    Each draw takes further channels of the field, so no two are alike, and what one is depends on neither the size nor
    the device. A generator gives the very numbers that diffusers' pipelines get from it.
    """

    def __init__(self, seed: int = 0, generator: torch.Generator | None = None) -> None:
        self.seed, self.generator, self._channels = seed, generator, 0

    def draw(
        self, channels: int, height: int, width: int, device: torch.device, dtype: torch.dtype
    ) -> Float[Tensor, "1 {channels} {height} {width}"]:
        """Standard normal noise. Raises ConfigError for a seed out of range."""
        if self.generator is not None:
            # On the generator's own device, then moved: diffusers.utils.torch_utils.randn_tensor.
            drawn = torch.randn(
                1, channels, height, width, generator=self.generator, device=self.generator.device, dtype=dtype
            )
            return drawn.to(device)
        first, self._channels = self._channels, self._channels + channels
        return place_noise(self.seed, self._channels, 0, 0, height, width)[:, first:].to(device, dtype)
