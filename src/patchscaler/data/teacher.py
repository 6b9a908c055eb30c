"""Pairs that another upscaler made: degraded crops and its enlargements of them, as targets beside ground truth.

A small network can't tell noise from fine texture as well as a large one does. Where it is unsure, ground truth teaches
it some texture that would do; the teacher's picture is a function of the same input, so there is something to learn.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from patchscaler.data.pictures import oriented, picture_files, read_rgb
from patchscaler.errors import ConfigError, DataError

SCALE = 4


@dataclass(frozen=True)
class TeacherSettings:
    """lr, hr: folders of pictures and of their x4 enlargements, by name; share: of all pairs, in [0,1]."""

    lr: str
    hr: str
    share: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"teacher.share {self.share} must lie in [0, 1]")


class TeacherPairs:
    """Random crops of the pairs. Raises DataError for a picture without enlargement, or one of another size."""

    def __init__(self, settings: TeacherSettings, crop: int) -> None:
        enlarged = {path.stem: path for path in picture_files(Path(settings.hr))}
        self.files, self.crop, self.share = [], crop // SCALE, settings.share
        for path in picture_files(Path(settings.lr)):
            if path.stem not in enlarged:
                raise DataError(f"{settings.hr}: no enlargement of {path}")
            self.files.append((path, enlarged[path.stem]))

    def __len__(self) -> int:
        return len(self.files)

    def draw(self, rng: np.random.Generator) -> dict[str, Float[Tensor, "3 h w"]]:
        """{"hr": (3,crop,crop), "lr": (3,crop/4,crop/4)} float32 in [0,1], in one of 8 orientations."""
        files = self.files[int(rng.integers(len(self.files)))]
        low, high = (read_rgb(path) for path in files)
        if high.shape[:2] != (SCALE * low.shape[0], SCALE * low.shape[1]):
            raise DataError(f"{files[1]}: {high.shape[:2]} is not {SCALE} times {low.shape[:2]} of {files[0]}")
        if min(low.shape[:2]) < self.crop:
            raise DataError(f"{files[0]}: too small for crops of {SCALE * self.crop} pixels (x4)")
        top, left = (int(rng.integers(side - self.crop + 1)) for side in low.shape[:2])
        turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
        pair = {}
        for name, pixels, scale in (("hr", high, SCALE), ("lr", low, 1)):
            rows, cols = (slice(scale * start, scale * (start + self.crop)) for start in (top, left))
            pair[name] = oriented(pixels[rows, cols], turns, mirrored).float() / 255
        return pair
