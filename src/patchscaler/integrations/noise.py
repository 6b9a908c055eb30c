"""Noise for borrowed pipelines: of the place, or of a generator as diffusers draws it."""

import torch
from jaxtyping import Float
from torch import Tensor

from patchscaler.pgs.noise import place_noise


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
        field = place_noise(self.seed, self._channels, 0, 0, height, width)[:, first:]
        return torch.from_numpy(field).to(device, dtype)
