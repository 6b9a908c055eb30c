"""Random values and networks."""

from typing import Any

import torch
from torch import Tensor, nn

from patchscaler.models.patch_dit import PatchDiT
from patchscaler.models.restorer import ConvRestorer


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


class TinyDenoiser(nn.Module):
    """Two convolutions, modulated by the time: small, real, the same in every run."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = nn.Conv2d(channels, 8, 3, padding=1)
            self.last = nn.Conv2d(8, channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, index: Tensor) -> Tensor:
        assert len(x) == len(t) == len(index)
        wave = torch.sin(t[:, None] / 1000 * torch.arange(1, 9))[:, :, None, None]
        return self.last(torch.tanh(self.first(x)) * (1 + wave))


DENOISER = TinyDenoiser().requires_grad_(False)


def check_reach(restorer: ConvRestorer) -> None:
    """An output latent depends on the pixels of `reach` latents on both sides, two each, and not on much fewer."""
    pixels = torch.rand(1, 3, 64, 64, requires_grad=True)
    restorer(pixels).latents[0, :, 16, 16].square().sum().backward()
    assert pixels.grad is not None
    seen = pixels.grad.abs().sum(dim=(0, 1)).nonzero()
    assert seen.min() >= 2 * (16 - restorer.reach)
    assert seen.max() < 2 * (16 + restorer.reach + 1)
    assert seen.max() >= 2 * (16 + restorer.reach - 1)  # and not much less
