"""Real-ESRGAN's compact networks as the restorer's starting point."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_restorer import check_reach
from torch import Tensor, nn

from patchscaler.errors import WeightsError
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.training.published import read_compact, restorer_from_compact


class Compact(nn.Module):
    """SRVGGNetCompact as its authors wrote it: a flat list `body`, then pixel shuffle and the enlarged input added."""

    def __init__(self, layers: int, width: int = 64) -> None:
        super().__init__()
        self.body = nn.ModuleList([nn.Conv2d(3, width, 3, padding=1), nn.PReLU(width)])
        for _ in range(layers):
            self.body.extend([nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width)])
        self.body.append(nn.Conv2d(width, 48, 3, padding=1))
        for slope in self.body[1::2]:
            nn.init.uniform_(slope.weight, 0.0, 0.5)

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels
        for layer in self.body:
            x = layer(x)
        return F.pixel_shuffle(x, 4) + F.interpolate(pixels, scale_factor=4, mode="nearest")


@pytest.fixture(scope="module")
def compact() -> Compact:
    torch.manual_seed(0)
    return Compact(layers=3).eval()


def write_ncnn(network: Compact, path: Path, half: bool) -> None:
    """As ncnn's converter: convolutions with a mark, weights and bias, slopes bare; half weights padded to 4 bytes."""
    data = b""
    for layer in network.body:
        if isinstance(layer, nn.PReLU):
            data += layer.weight.detach().numpy().tobytes()
            continue
        weight = layer.weight.detach().numpy()
        data += struct.pack("<I", 0x01306B47 if half else 0)
        raw = (weight.astype(np.float16) if half else weight).tobytes()
        data += raw + bytes(-len(raw) % 4) + layer.bias.detach().numpy().tobytes()
    path.write_bytes(data)


def test_the_restorer_begins_with_the_compact_networks_picture(compact: Compact, tmp_path: Path) -> None:
    torch.save({"params": compact.state_dict()}, tmp_path / "x4.pth")
    autoencoder = DctAutoencoder(latents_mean=torch.randn(32).tolist(), latents_std=(0.5 + torch.rand(32)).tolist())
    restorer = restorer_from_compact(read_compact(tmp_path / "x4.pth"), autoencoder).eval()
    pixels = torch.rand(1, 3, 32, 40)
    with torch.no_grad():
        got, wanted = restorer(pixels).latents, autoencoder.encode(compact(pixels))
    inner = (..., slice(4, -4), slice(4, -4))  # at the border the paddings differ
    assert got.shape == wanted.shape == (1, 32, 16, 20)
    assert torch.allclose(got[inner], wanted[inner], atol=2e-4)
    assert not torch.allclose(got, wanted, atol=2e-4)


def test_its_reach_is_what_it_says(compact: Compact, tmp_path: Path) -> None:
    torch.save(compact.state_dict(), tmp_path / "x4.pth")
    restorer = restorer_from_compact(read_compact(tmp_path / "x4.pth"), DctAutoencoder())
    check_reach(restorer)


@pytest.mark.parametrize("half", [False, True])
def test_ncnn_files_hold_the_same(compact: Compact, tmp_path: Path, half: bool) -> None:
    write_ncnn(compact, tmp_path / "x4.bin", half)
    torch.save(compact.state_dict(), tmp_path / "x4.pth")
    pairs = list(zip(read_compact(tmp_path / "x4.bin"), read_compact(tmp_path / "x4.pth"), strict=True))
    assert len(pairs) == 4 * 3 + 2
    for got, wanted in pairs:
        assert torch.allclose(got, wanted, atol=1e-3 if half else 0)


@pytest.mark.parametrize("name", ["x4.bin", "x4.pth"])
@pytest.mark.parametrize("content", [b"", b"neither", bytes(3_000), bytes(3_000_000)])
def test_other_files_are_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=name):
        read_compact(tmp_path / name)


def test_another_network_is_refused(tmp_path: Path) -> None:
    torch.save({"params": nn.Linear(2, 2).state_dict()}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="compact"):
        read_compact(tmp_path / "other.pth")
    torch.save({"params": {f"body.{k}": v for k, v in enumerate(nn.Linear(2, 2).parameters())}}, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match="x4"):
        restorer_from_compact(read_compact(tmp_path / "odd.pth"), DctAutoencoder())
