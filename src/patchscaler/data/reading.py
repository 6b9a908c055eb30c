"""Pictures of a folder or of tar files: which there are, their pixels, and both kept in a cache.

Files that can't be read are counted, named and left out: among a hundred thousand there is always one that was cut off.
"""

import hashlib
import io
import json
import os
import sys
import tarfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from patchscaler.errors import ConfigError, DataError
from patchscaler.imaging.unreadable import DECODE_ERRORS

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
_READERS = 16  # threads that read headers: most of the time they wait for the disk


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


def is_current(root: Path, cache: Path, decode: bool) -> bool:
    """Whether the cache holds the decoded copy, or the index, of the pictures as they are now. Raises DataError."""
    if not decode:
        return _index_path(shards(root) or picture_files(root), root, cache).exists()
    return all(path.exists() for path in _cache_paths(picture_files(root), root, cache))


def _cache_paths(files: list[Path], root: Path, cache: Path) -> tuple[Path, Path]:
    """Where the pixels and the table of these pictures belong."""
    name = _fingerprint(files, root)
    return cache / f"pictures-{name}.u8", cache / f"pictures-{name}.json"


def _fingerprint(files: list[Path], root: Path) -> str:
    listing = "\n".join(f"{p.relative_to(root)} {p.stat().st_size}" for p in files)
    return hashlib.sha256(listing.encode()).hexdigest()[:16]


def decode_once(root: Path, cache: Path) -> tuple[Path, list[dict]]:
    """The path of the decoded pixels and the table of pictures in it; both come from the cache when it is current."""
    if shards(root):
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
            errors = []
            for path in files:
                try:
                    pixels = read_rgb(path)
                except DataError as error:
                    errors.append(error)
                    continue
                stream.write(pixels.tobytes())
                height, width = pixels.shape[:2]
                table.append({"file": str(path.relative_to(root)), "height": height, "width": width, "offset": offset})
                offset += pixels.size
        _name_left_out(errors, len(table))
        os.replace(partial, data_path)
        partial.write_text(json.dumps(table))
        os.replace(partial, table_path)
    finally:
        partial.unlink(missing_ok=True)
    return data_path, table


def shards(root: Path) -> list[Path]:
    return sorted(root.rglob("*.tar")) if root.is_dir() else []


def _index_path(files: list[Path], root: Path, cache: Path) -> Path:
    return cache / f"index-{_fingerprint(files, root)}.json"


def index_once(root: Path, cache: Path) -> tuple[Path, list[dict]]:
    """The path of the index and what it says of every picture: name, size, and its place if it lies in a tar file."""
    tars = shards(root)
    files = tars or picture_files(root)
    path = _index_path(files, root, cache)
    if path.exists():
        return path, json.loads(path.read_text())
    look: Callable[[Path], list[dict | DataError]] = (
        (lambda shard: _members(shard, root)) if tars else (lambda file: [_row(file, file, root)])
    )
    with ThreadPoolExecutor(_READERS) as readers:
        found = [row for rows in readers.map(look, files) for row in rows]
    table = [row for row in found if isinstance(row, dict)]
    _name_left_out([row for row in found if isinstance(row, DataError)], len(table))
    if not table:
        raise DataError(f"{root}: no pictures in its tar files; they need names with {', '.join(sorted(SUFFIXES))}")
    cache.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.part")
    partial.write_text(json.dumps(table))
    os.replace(partial, path)
    return path, table


def _name_left_out(errors: Sequence[DataError], others: int) -> None:
    """Says which files are left out. Raises the first error when there are no others."""
    if errors and not others:
        raise errors[0]
    for error in errors:
        print(f"left out: {error}", file=sys.stderr)
    if errors:
        print(f"{len(errors)} of {len(errors) + others} files are left out", file=sys.stderr, flush=True)


def _row(name: Path, source: Any, root: Path) -> dict | DataError:
    """A picture's name and size, of its header alone; or why there are none."""
    try:
        with Image.open(source) as image:
            return {"file": name.relative_to(root).as_posix(), "height": image.height, "width": image.width}
    except (*DECODE_ERRORS, Image.DecompressionBombError) as error:
        return DataError(f"{name}: can't be read as a picture ({error}); remove it")


def _members(shard: Path, root: Path) -> list[dict | DataError]:
    """The pictures in a tar file, as SHARD/NAME, with the bytes they lie at."""
    rows: list[dict | DataError] = []
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if member.isfile() and Path(member.name).suffix.lower() in SUFFIXES:
                    row = _row(shard / member.name, tar.extractfile(member), root)
                    place = {"shard": shard.relative_to(root).as_posix(), "at": member.offset_data}
                    rows.append(row | place | {"bytes": member.size} if isinstance(row, dict) else row)
    except tarfile.TarError as error:  # what comes before a cut-off end is whole
        rows.append(DataError(f"{shard}: not a plain tar file ({error}); write it uncompressed, or unpack it"))
    return rows


def read_indexed(root: Path, row: dict) -> np.ndarray:
    if "shard" not in row:
        return read_rgb(root / row["file"])
    with open(root / row["shard"], "rb") as stream:
        stream.seek(row["at"])
        return read_rgb(root / row["file"], io.BytesIO(stream.read(row["bytes"])))
