"""The command line's calls in tests, small pictures for them, and what they left."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from arrays import uniform
from patchscaler.imaging.files import write_picture


class Answer(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Answer]


def draw(path: Path, height: int = 24, width: int = 20, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def make_picture(path: Path, width: int = 9, height: int = 6) -> Path:
    path.parent.mkdir(exist_ok=True)
    pixels = bytes(value % 251 for value in range(0, width * height * 3 * 7, 7))
    Image.frombytes("RGB", (width, height), pixels).save(path)
    return path


def make_result(path: Path) -> Path:
    """A picture with our mark."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_picture(path, uniform(1, 3, 6, 9), history="made before")
    return path


def files_in(folder: Path) -> list[str]:
    """Every file below a folder, hidden ones too: a half-written result would be among them."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def truncated(path: Path) -> bytes:
    whole = make_picture(path, 64, 48).read_bytes()
    return whole[: len(whole) // 2]
