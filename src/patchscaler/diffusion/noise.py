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
