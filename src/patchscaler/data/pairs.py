"""LR/HR training pairs: a crop of a training picture and its degraded x4 reduction, as a function of (seed, index)."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from patchscaler.data.camera import CameraConfig
from patchscaler.data.degradation import DegradationConfig, degrade_at
from patchscaler.data.pictures import PicturePool, PictureSet
from patchscaler.data.reading import picture_files, read_rgb
from patchscaler.errors import ConfigError, DataError

CONDITIONS: dict[str, DegradationConfig | CameraConfig] = {
    "bicubic": DegradationConfig.bicubic(),
    "camera": CameraConfig(),
    "mild": DegradationConfig.mild(),
    "real_esrgan": DegradationConfig.real_esrgan(),
    "resshift": DegradationConfig.resshift(),
}


@dataclass(frozen=True)
class PairSettings:
    """Which pairs.

    crop     side of the HR crop in pixels
    draws    see PicturePool.crop
    mixture  share of each degradation
    """

    crop: int = 192
    draws: int = 2
    mixture: dict[str, float] = field(
        default_factory=lambda: {"bicubic": 0.3, "camera": 0.2, "mild": 0.25, "real_esrgan": 0.25}
    )

    def __post_init__(self) -> None:
        unknown = set(self.mixture) - set(CONDITIONS)
        if unknown or sum(self.mixture.values()) <= 0 or min(self.mixture.values()) < 0:
            raise ConfigError(f"mixture {self.mixture}: give positive shares of {', '.join(CONDITIONS)}")
        if self.crop < 16 or self.crop % 16:
            raise ConfigError(f"crop {self.crop} must be a multiple of 16")
        if self.draws < 1:
            raise ConfigError(f"draws {self.draws} must be at least 1")


class PairDataset(Dataset):
    """Sample `index` -> {"hr": (3,crop,crop), "lr": (3,crop/4,crop/4)} float32 in [0,1]."""

    def __init__(self, pictures: PictureSet, settings: PairSettings, seed: int, length: int = 2**40) -> None:
        self.pool = PicturePool(pictures)
        self.pool.check_crop(settings.crop)
        self.settings, self.seed, self.length = settings, seed, length
        shares = np.array(list(settings.mixture.values()), dtype=np.float64)
        self._names, self._shares = list(settings.mixture), shares / shares.sum()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        hr = self.pool.crop(self.seed, index, self.settings.crop, self.settings.draws).float() / 255
        chosen = np.random.default_rng([self.seed, index, 1]).choice(len(self._names), p=self._shares)
        lr = degrade_at(hr, CONDITIONS[self._names[int(chosen)]], self.seed, index)
        return {"hr": hr, "lr": lr}


class ValidationPicture(NamedTuple):
    """A picture's file, its pixels (1,3,H,W) with sides that are multiples of 16, and the LR input (1,3,H/4,W/4)."""

    path: Path
    hr: Tensor
    lr: Tensor


def validation_pictures(
    folder: str | Path,
    condition: str = "bicubic",
    seed: int = 0,
    side: int | None = None,
    drawn: int = 0,
    shrink: bool = False,
) -> Iterator[ValidationPicture]:
    """The pictures of a folder with LR inputs, one at a time; pictures below 64 pixels are left out.

    condition  one of CONDITIONS; the n-th picture's degradation is a function of (seed, n)
    side       cut the centre of this side; sides become multiples of 16 in any case
    drawn      so many pictures alone, which the seed chooses; 0: all
    shrink     reduce a picture until its shorter side is `side`, before it is cut

    Raises DataError as PicturePool does.
    """
    number, files = 0, picture_files(Path(folder))
    if drawn:
        chosen = np.random.default_rng(seed).permutation(len(files))[:drawn]
        files = [files[place] for place in sorted(chosen.tolist())]
    for path in files:
        picture = read_rgb(path)
        if side and shrink and (least := min(picture.shape[:2])) > side:
            height, width = (round(length * side / least) for length in picture.shape[:2])
            image = Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC)
            picture = np.asarray(image)
        if min(picture.shape[:2]) < 64:
            continue
        height, width = ((side or picture.shape[0]), (side or picture.shape[1]))
        height, width = min(height, picture.shape[0]) // 16 * 16, min(width, picture.shape[1]) // 16 * 16
        top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
        cut = np.ascontiguousarray(picture[top : top + height, left : left + width].transpose(2, 0, 1))
        hr = torch.from_numpy(cut).float() / 255
        yield ValidationPicture(path, hr[None], degrade_at(hr, CONDITIONS[condition], seed, number)[None])
        number += 1
    if not number:
        raise DataError(f"{folder}: no picture has both sides of at least 64 pixels")


def validation_pairs(
    folder: str, count: int, condition: str = "bicubic", seed: int = 0, side: int | None = None
) -> list[dict[str, Tensor]]:
    """The first `count` of `validation_pictures` (all when 0)."""
    pictures = itertools.islice(validation_pictures(folder, condition, seed, side), count or None)
    return [{"hr": picture.hr, "lr": picture.lr} for picture in pictures]
