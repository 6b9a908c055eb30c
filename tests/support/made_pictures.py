"""Pictures made of random samples, for tests of files."""

import numpy as np
import torch
from hypothesis import HealthCheck, settings
from PIL import Image
from torch import Tensor

from arrays import assert_close
from patchscaler.imaging.files import Picture

quick = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
COLOUR_MODES = ["RGB", "RGBA", "L", "LA"]


def samples_of(height: int, width: int, channels: int, dtype=np.uint8, seed: int = 0) -> np.ndarray:
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top, (height, width, channels), dtype=dtype, endpoint=True)


def planes(samples: np.ndarray) -> np.ndarray:
    """(H,W,C) integers -> (1,C,H,W) in [0, 1]."""
    return np.ascontiguousarray((samples / np.iinfo(samples.dtype).max).astype(np.float32).transpose(2, 0, 1))[None]


def picture_of(samples: np.ndarray, **facts) -> Picture:
    values, channels = planes(samples), samples.shape[2]
    alpha = values[:, -1:] if channels in (2, 4) else None
    colours = np.repeat(values[:, :1], 3, axis=1) if channels < 3 else values[:, :3]
    return Picture(colours, alpha, bits=8 * samples.itemsize, grey=channels < 3, **facts)


def exif_with(orientation: int | None = None) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8769).update({0x8827: 400, 0xA002: 7, 0xA003: 5})
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 30.0, 0.0)})
    if orientation:
        exif[0x0112] = orientation
    return exif


def assert_same(read: Picture, expected: Picture, tolerance: float = 1e-6) -> None:
    assert_close(read.pixels, expected.pixels, atol=tolerance, rtol=0)
    assert (read.alpha is None) == (expected.alpha is None)
    if read.alpha is not None:
        assert_close(read.alpha, expected.alpha, atol=tolerance, rtol=0)
    assert (read.bits, read.grey) == (expected.bits, expected.grey)
    assert read.pixels.flags.c_contiguous


def as_tensor(photo: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(photo).copy()).permute(2, 0, 1).float() / 255
