"""Training pictures, and crops of them as a function of (seed, index).

A few thousand pictures are decoded once, into one memory-mapped file. Of more than that only an index is made, and each
is decoded when it is drawn; they may lie in a folder or in tar files (webdataset's shards), which are read at random
places, so that a resumed run draws what it would have drawn, and each process reads no more than its own share.

Files that can't be read are counted, named and left out: among a hundred thousand there is always one that was cut off.
"""

import csv
import hashlib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from patchscaler.data.reading import decode_once, index_once, is_current, read_indexed
from patchscaler.errors import ConfigError, DataError

_DRAWS = 100  # pictures that are drawn for one crop before so many unreadable ones are an error


@dataclass(frozen=True)
class PictureSet:
    """Which pictures to train on.

    folder       pictures, or uncompressed tar files of them, searched recursively
    cache        folder for the decoded copy or the index; rebuilt when the set of files changes
    decode       make the decoded copy; tar files need false
    min_side     smaller pictures are left out
    manifest     optional CSV with columns `file` and `kind`
    kind_weights share of crops per kind, with a manifest; kinds not named get weight `other_weight`
    without      columns of the manifest and their values: pictures that have one in each of these columns are left out
    """

    folder: str
    cache: str = "cache"
    min_side: int = 256
    manifest: str | None = None
    kind_weights: dict[str, float] = field(default_factory=dict)
    without: dict[str, list[str]] = field(default_factory=dict)
    other_weight: float = 0.05
    decode: bool = True


class PicturePool:
    """Decoded pictures (uint8 RGB) behind a memory map, with random crops drawn from them.

    Decoding a 2,000-pixel photo costs more than training on a crop of it, so it is done once. The crop at (seed, index)
    is always the same one, whatever was drawn before. Raises DataError when the folder has no usable picture or the
    manifest doesn't fit.

    identity: changes with whatever the crops depend on
    """

    def __init__(self, pictures: PictureSet) -> None:
        self._root, self._decoded = Path(pictures.folder), pictures.decode
        prepare = decode_once if pictures.decode else index_once
        self._data_path, table = prepare(self._root, Path(pictures.cache))
        self._pixels: np.ndarray | None = None
        self.table = [row for row in table if min(row["height"], row["width"]) >= pictures.min_side]
        if not self.table:
            raise DataError(
                f"{self._root}: no picture has both sides of at least min_side = {pictures.min_side} pixels"
            )
        self._unreadable: set[int] = set()
        self._weights = self._picture_weights(pictures)
        drawn = (
            self._weights.tobytes() + json.dumps([self._data_path.name, pictures.min_side, pictures.without]).encode()
        )
        self.identity = hashlib.sha256(drawn).hexdigest()

    def _picture_weights(self, pictures: PictureSet) -> np.ndarray:
        if pictures.manifest is None:
            weights = np.ones(len(self.table))
        else:
            rows = _read_manifest(Path(pictures.manifest), ("kind", *pictures.without))
            kinds = {file: row["kind"] for file, row in rows.items() if not _left_out(row, pictures.without)}
            self.table = [row for row in self.table if row["file"] in kinds or row["file"] not in rows]
            of_picture = [kinds.get(row["file"], "") for row in self.table]
            counts = {kind: of_picture.count(kind) for kind in set(of_picture)}
            weights = np.array([pictures.kind_weights.get(k, pictures.other_weight) / counts[k] for k in of_picture])
        if not (weights.min() >= 0 and weights.sum() > 0):
            raise DataError(f"{pictures.folder}: kind_weights and other_weight must be >= 0, and > 0 for some picture")
        return weights / weights.sum()

    def __len__(self) -> int:
        return len(self.table)

    def picture(self, number: int) -> np.ndarray:
        """Picture `number` (H,W,3) uint8, a view where there is a decoded copy."""
        if not self._decoded:
            return read_indexed(self._root, self.table[number])
        if self._pixels is None:  # opened on first use, so that worker processes map the file themselves
            self._pixels = np.memmap(self._data_path, dtype=np.uint8, mode="r")
        row = self.table[number]
        size = row["height"] * row["width"] * 3
        return self._pixels[row["offset"] : row["offset"] + size].reshape(row["height"], row["width"], 3)

    def check_crop(self, side: int) -> None:
        """Raises ConfigError unless every picture holds a crop of this side."""
        smallest = min(self.table, key=lambda row: min(row["height"], row["width"]))
        if min(smallest["height"], smallest["width"]) < side:
            size = f"{smallest['height']}x{smallest['width']}"
            raise ConfigError(f"crop {side} doesn't fit {smallest['file']} ({size}); set pictures.min_side to {side}")

    def crop(self, seed: int, index: int, side: int, draws: int = 2) -> UInt8[Tensor, "3 side side"]:
        """Crop at (seed, index): picture by weight, best of `draws` places by contrast, one of 8 orientations.

        A picture that can't be read is left out, and the next one drawn. Raises DataError when there are only such.
        """
        rng = np.random.default_rng([seed, index])
        picture = self._draw(rng)
        best, best_contrast = None, -1.0
        for _ in range(draws):
            top = int(rng.integers(picture.shape[0] - side + 1))
            left = int(rng.integers(picture.shape[1] - side + 1))
            candidate = picture[top : top + side, left : left + side]
            green = candidate[::2, ::2, 1].astype(np.float32)
            contrast = float(np.abs(np.diff(green, axis=0)).mean() + np.abs(np.diff(green, axis=1)).mean())
            if contrast > best_contrast:
                best, best_contrast = candidate, contrast
        assert best is not None
        return _oriented(best, int(rng.integers(4)), bool(rng.integers(2)))

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        for _ in range(_DRAWS):
            number = int(rng.choice(len(self.table), p=self._weights))
            try:
                return self.picture(number)
            except DataError as error:
                if number not in self._unreadable:
                    self._unreadable.add(number)
                    count = len(self._unreadable)
                    print(f"left out, {count} so far in this process: {error}", file=sys.stderr, flush=True)
        raise DataError(f"{self._root}: {_DRAWS} pictures in a row can't be read; see the lines above")


def _oriented(pixels: np.ndarray, turns: int, mirrored: bool) -> UInt8[Tensor, "3 h w"]:
    """Pixels (h,w,3) after so many quarter turns, mirrored or not: one of 8 orientations."""
    turned = np.rot90(pixels, turns)
    if mirrored:
        turned = turned[:, ::-1]
    return torch.from_numpy(np.ascontiguousarray(turned.transpose(2, 0, 1)))


def _read_manifest(path: Path, columns: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """These columns for each file. Raises DataError."""
    try:
        with open(path, newline="") as stream:
            return {row["file"]: {column: row[column] for column in columns} for row in csv.DictReader(stream)}
    except OSError as error:
        raise DataError(f"{path}: can't read the manifest ({error.strerror})") from error
    except KeyError as error:
        needed = ", ".join(("file", *columns))
        raise DataError(f"{path}: the manifest has no column {error}; it needs {needed}") from error


def _left_out(row: dict[str, str], without: dict[str, list[str]]) -> bool:
    return bool(without) and all(row[column] in values for column, values in without.items())


def is_decoded(pictures: PictureSet) -> bool:
    """Whether the cache holds the pictures, or their index, as they are now. Raises DataError when there are none."""
    return is_current(Path(pictures.folder), Path(pictures.cache), pictures.decode)
