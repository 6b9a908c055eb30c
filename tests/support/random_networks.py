"""Random values and networks."""

from typing import Any

import torch
from torch import Tensor

from patchscaler.models.patch_dit import PatchDiT


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shaken(network: Any, seed: int = 0) -> Any:
    """Every parameter random: zero-initialised layers would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return network.eval().requires_grad_(False)


def fresh_patch_dit(**changes: Any) -> PatchDiT:
    torch.manual_seed(0)
    settings = {"latent_channels": 3, "sample_size": 4, "width": 16, "depth": 2, "heads": 2, "texture_width": 16}
    return PatchDiT(**settings | changes)


def patch_dit(**changes: Any) -> PatchDiT:
    return shaken(fresh_patch_dit(**changes), 2)
