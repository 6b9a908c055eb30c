"""Training pictures, and crops of them as a function of (seed, index).

A few thousand pictures are decoded once, into one memory-mapped file. Of more than that only an index is made, and each
is decoded when it is drawn; they may lie in a folder or in tar files (webdataset's shards), which are read at random
places, so that a resumed run draws what it would have drawn, and each process reads no more than its own share.
"""

import csv
import hashlib
import io
import json
import os
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from patchscaler.errors import ConfigError, DataError
from patchscaler.imaging.unreadable import DECODE_ERRORS

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


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
        prepare = _decode_once if pictures.decode else _index_once
        self._data_path, table = prepare(self._root, Path(pictures.cache))
        self._pixels: np.ndarray | None = None
        self.table = [row for row in table if min(row["height"], row["width"]) >= pictures.min_side]
        if not self.table:
            raise DataError(
                f"{self._root}: no picture has both sides of at least min_side = {pictures.min_side} pixels"
            )
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
            return _read_indexed(self._root, self.table[number])
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
        """Crop at (seed, index): picture by weight, best of `draws` places by contrast, one of 8 orientations."""
        rng = np.random.default_rng([seed, index])
        picture = self.picture(int(rng.choice(len(self.table), p=self._weights)))
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


def _oriented(pixels: np.ndarray, turns: int, mirrored: bool) -> UInt8[Tensor, "3 h w"]:
    """Pixels (h,w,3) after so many quarter turns, mirrored or not: one of 8 orientations."""
    turned = np.rot90(pixels, turns)
    if mirrored:
        turned = turned[:, ::-1]
    return torch.from_numpy(np.ascontiguousarray(turned.transpose(2, 0, 1)))


def picture_files(root: Path) -> list[Path]:
    """All pictures below `root`, sorted. Raises DataError when there is none."""
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES) if root.is_dir() else []
    if not files:
        raise DataError(f"{root}: no pictures in this folder; give one with {', '.join(sorted(SUFFIXES))} files")
    return files


def read_rgb(path: Path, source: Any = None) -> np.ndarray:
    """A picture's pixels (H,W,3) uint8; source: a stream of its file, where that isn't `path`. Raises DataError."""
    try:
        with Image.open(source or path) as image:
            return np.asarray(image.convert("RGB"))
    except (*DECODE_ERRORS, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: can't be read as a picture ({error}); remove it from the folder") from error


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
    root, cache = Path(pictures.folder), Path(pictures.cache)
    if not pictures.decode:
        return _index_path(_shards(root) or picture_files(root), root, cache).exists()
    return all(path.exists() for path in _cache_paths(picture_files(root), root, cache))


def _cache_paths(files: list[Path], root: Path, cache: Path) -> tuple[Path, Path]:
    """Where the pixels and the table of these pictures belong."""
    name = _fingerprint(files, root)
    return cache / f"pictures-{name}.u8", cache / f"pictures-{name}.json"


def _fingerprint(files: list[Path], root: Path) -> str:
    listing = "\n".join(f"{p.relative_to(root)} {p.stat().st_size}" for p in files)
    return hashlib.sha256(listing.encode()).hexdigest()[:16]


def _decode_once(root: Path, cache: Path) -> tuple[Path, list[dict]]:
    """The path of the decoded pixels and the table of pictures in it; both come from the cache when it is current."""
    if _shards(root):
        raise ConfigError(f"{root}: holds tar files; set pictures.decode = false to read pictures from them")
    files = picture_files(root)
    data_path, table_path = _cache_paths(files, root, cache)
    if table_path.exists() and data_path.exists():
        return data_path, json.loads(table_path.read_text())
    cache.mkdir(parents=True, exist_ok=True)
    table: list[dict] = []
    offset, partial = 0, data_path.with_suffix(f".{os.getpid()}.part")  # its own: two runs may start at once
    try:
        with open(partial, "wb") as stream:
            for path in files:
                pixels = read_rgb(path)
                stream.write(pixels.tobytes())
                height, width = pixels.shape[:2]
                table.append({"file": str(path.relative_to(root)), "height": height, "width": width, "offset": offset})
                offset += pixels.size
        os.replace(partial, data_path)
        partial.write_text(json.dumps(table))
        os.replace(partial, table_path)
    finally:
        partial.unlink(missing_ok=True)
    return data_path, table


def _shards(root: Path) -> list[Path]:
    return sorted(root.rglob("*.tar")) if root.is_dir() else []


def _index_path(files: list[Path], root: Path, cache: Path) -> Path:
    return cache / f"index-{_fingerprint(files, root)}.json"


def _index_once(root: Path, cache: Path) -> tuple[Path, list[dict]]:
    """The path of the index and what it says of every picture: name, size, and its place if it lies in a tar file."""
    shards = _shards(root)
    files = shards or picture_files(root)
    path = _index_path(files, root, cache)
    if path.exists():
        return path, json.loads(path.read_text())
    table = [row for file in files for row in (_members(file, root) if shards else [_row(file, file, root)])]
    if not table:
        raise DataError(f"{root}: no pictures in its tar files; they need names with {', '.join(sorted(SUFFIXES))}")
    cache.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.part")
    partial.write_text(json.dumps(table))
    os.replace(partial, path)
    return path, table


def _row(name: Path, source: Any, root: Path) -> dict:
    """A picture's name and size, of its header alone."""
    try:
        with Image.open(source) as image:
            return {"file": name.relative_to(root).as_posix(), "height": image.height, "width": image.width}
    except (*DECODE_ERRORS, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: can't be read as a picture ({error}); remove it") from error


def _members(shard: Path, root: Path) -> list[dict]:
    """The pictures in a tar file, as SHARD/NAME, with the bytes they lie at."""
    rows = []
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if member.isfile() and Path(member.name).suffix.lower() in SUFFIXES:
                    row = _row(shard / member.name, tar.extractfile(member), root)
                    place = {"shard": shard.relative_to(root).as_posix(), "at": member.offset_data}
                    rows.append(row | place | {"bytes": member.size})
    except tarfile.TarError as error:
        raise DataError(f"{shard}: not a plain tar file ({error}); write it uncompressed, or unpack it") from error
    return rows


def _read_indexed(root: Path, row: dict) -> np.ndarray:
    if "shard" not in row:
        return read_rgb(root / row["file"])
    with open(root / row["shard"], "rb") as stream:
        stream.seek(row["at"])
        return read_rgb(root / row["file"], io.BytesIO(stream.read(row["bytes"])))
