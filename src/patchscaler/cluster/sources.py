"""Where a job's pictures come from: a folder, a list, Parquet tables of paths or bytes, tar shards.

What lists, tables and shards call their pictures need not be text, or be there at all.
"""

import codecs
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as parquet
from fsspec.utils import get_protocol

from patchscaler.cluster.storage import StoragePath
from patchscaler.errors import ConfigError, PatchScalerError

PATH_COLUMNS = ("path", "url", "file", "file_name")
BYTES_COLUMNS = ("bytes", "data", "image", "content")
NAME_COLUMNS = ("name", "key", "id", "__key__")
NOT_TEXT = "its name is not UTF-8; rename it, and write lists and tables as UTF-8"
LARGEST_SEED = 2**63 - 1


class Unit(NamedTuple):
    """What one reading task takes: a picture's file, a row group of a Parquet file, or a tar shard.

    kind   file, rows or tar
    url    of the file
    key    of the picture, by which the manifest knows it; of rows and tars: what their pictures' keys begin with
    name   of the picture, relative, after which its result is called; likewise
    group  of rows: number of the row group
    first  of rows: number of its first row in the file
    seed   of this picture's noise; None: the job's
    reason why the picture can't even be looked for
    """

    kind: str
    url: str
    key: str
    name: str
    group: int = 0
    first: int = 0
    seed: int | None = None
    reason: str | None = None


def find_units(source: str) -> list[Unit]:
    """The units of a folder, list (.txt), Parquet or tar file, glob pattern of such, or URL of one; sorted.

    A folder is searched for pictures with all its subfolders; without any, for shards and then for Parquet files. In a
    folder of this machine, our own results are left out.
    Raises ConfigError for a source without pictures, and where two pictures would have the same key.
    """
    from patchscaler.imaging.files import PICTURE_SUFFIXES

    root, files = _listed(source)
    by_suffix: dict[str, list[StoragePath]] = {}
    for file in files:
        by_suffix.setdefault(PurePosixPath(file.path).suffix.lower(), []).append(file)
    pictures = sorted(file for suffix in PICTURE_SUFFIXES for file in by_suffix.get(suffix, []))
    if pictures and (folder := StoragePath.at(source)).is_local and folder.is_folder():
        from patchscaler.imaging.searching import is_result

        pictures = [file for file in pictures if not is_result(Path(file.path))]
        if not pictures:
            raise ConfigError(f"{source}: holds only results of PatchScaler; name them in a list (.txt), if you will")
    if pictures:
        units = [_file(file, file.path[len(root) :].strip("/")) for file in pictures]
    elif ".tar" in by_suffix:
        units = [Unit("tar", str(file), *2 * (_stem(file),)) for file in by_suffix[".tar"]]
    elif ".parquet" in by_suffix:
        units = [unit for file in by_suffix[".parquet"] for unit in _units_of_table(file)]
    elif ".txt" in by_suffix:
        units = [unit for file in by_suffix[".txt"] for unit in _units_of_list(file)]
    else:
        raise ConfigError(f"{source}: no pictures, .tar, .parquet or .txt there; name a folder or file that has some")
    seen: dict[str, Unit] = {}
    for unit in units:
        name = f"{unit.key}#{unit.group}" if unit.kind == "rows" else unit.key
        if name in seen:
            raise ConfigError(f"{unit.url} and {seen[name].url}: both are called {unit.key}; rename or remove one")
        seen[name] = unit
    return units


def _listed(source: str) -> tuple[str, list[StoragePath]]:
    """The folder that pictures are named from, and all files that a source means."""
    found = StoragePath.at(source)
    try:
        if any(sign in source for sign in "*?[") and not get_protocol(source).startswith("http"):
            fixed = re.split(r"[*?\[]", found.path)[0]
            paths = sorted(found.fs.glob(found.path))
            return fixed.rpartition("/")[0], [StoragePath(found.fs, path) for path in paths]
        if found.is_folder():
            return found.path.rstrip("/"), found.files()
        if not found.exists():
            raise ConfigError(f"{source}: no such file or folder; check the path")
    except (OSError, ImportError) as error:
        raise ConfigError(f"{source}: cannot be listed ({error}); check the path and your access to it") from error
    return found.parent, [found]


def _stem(file: StoragePath) -> str:
    return PurePosixPath(file.path).stem


def _file(file: StoragePath, name: str, key: str | None = None, seed: int | None = None) -> Unit:
    unit = Unit("file", str(file), key or name, name, seed=seed)
    return unit if is_text(unit.url + unit.key) else _lost(shown(unit.key), NOT_TEXT)


def _lost(key: str, why: str) -> Unit:
    """A picture that fails."""
    return Unit("file", "", key, key, reason=f"{key}: {why}")


def _units_of_list(file: StoragePath) -> list[Unit]:
    """A path or URL a line, relative ones beside the list; empty lines and those that begin with # are left out."""
    paths = list(dict.fromkeys(line for line in lines_of(file.read()) if line and not line.startswith("#")))
    return _units_of_paths(file, paths, [None] * len(paths))


def _units_of_paths(table: StoragePath, paths: Sequence[Any], seeds: Sequence[Any]) -> list[Unit]:
    """Pictures are called after what their paths don't have in common; what is no path or seed is a picture lost."""
    units: list[Unit] = []
    good: list[tuple[StoragePath, str, int | None]] = []
    for number, (path, seed) in enumerate(zip(paths, seeds, strict=True)):
        if not isinstance(path, str) or not path:
            units.append(_lost(f"{_stem(table)}#{number}", f"row {number} has no path; fill it or leave it out"))
            continue
        try:
            absolute = "://" in path or path.startswith("/")
            file = StoragePath.at(path) if absolute else StoragePath(table.fs, f"{table.parent}/{path}")
            good.append((file, path, seed_of(seed)))
        except (ValueError, PatchScalerError) as error:
            units.append(_lost(shown(path), str(error)))
    plain = [file.path.split("?")[0] for file, _, _ in good]
    parents = [path.split("/")[:-1] for path in plain]
    shortest, longest = (min(parents, default=[]), max(parents, default=[]))
    common = next((i for i, (a, b) in enumerate(zip(shortest, longest, strict=False)) if a != b), len(shortest))
    names = ["/".join(path.split("/")[common:]) for path in plain]
    return [*units, *(_file(file, name, key, seed) for (file, key, seed), name in zip(good, names, strict=True))]


def _units_of_table(file: StoragePath) -> list[Unit]:
    """A Parquet file of paths: its pictures; of bytes: its row groups."""
    try:
        with file.fs.open(file.path, "rb") as opened:
            table = parquet.ParquetFile(opened)
            names = table.schema_arrow.names
            if (column := first_of(PATH_COLUMNS, names)) and not first_of(BYTES_COLUMNS, names):
                content = table.read([column, *(["seed"] if "seed" in names else [])])
                seeds = content["seed"].to_pylist() if "seed" in names else [None] * len(content)
                return _units_of_paths(file, texts_of(content[column]), seeds)
            if not first_of(BYTES_COLUMNS, names):
                known = ", ".join((*PATH_COLUMNS, *BYTES_COLUMNS))
                raise ConfigError(f"{file}: has no column of paths or bytes; call one of them {known}")
            if name := first_of(NAME_COLUMNS, names):
                _check_names(file, [each for each in texts_of(table.read([name])[name]) if each is not None])
            counts = [table.metadata.row_group(group).num_rows for group in range(table.metadata.num_row_groups)]
    except PatchScalerError:
        raise
    except Exception as error:
        raise ConfigError(f"{file}: cannot be read as Parquet ({error}); write it again or leave it out") from error
    firsts = [sum(counts[:group]) for group in range(len(counts))]
    stem = _stem(file)
    return [Unit("rows", str(file), stem, stem, group, first) for group, first in enumerate(firsts)]


def _check_names(file: StoragePath, names: Sequence[Any]) -> None:
    counts = Counter(stem_of(str(name)) for name in names)
    if len(counts) < len(names):
        raise ConfigError(f"{file}: several pictures are called {counts.most_common(1)[0][0]}; give each its own name")


def stem_of(name: str) -> str:
    """A picture's name without its ending, below any folder it is put in."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return str(PurePosixPath(*parts).with_suffix("")) if parts else "picture"


def first_of(wanted: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in names), None)


def is_text(name: str) -> bool:
    """False where some bytes of a name were not UTF-8 (they stand there as lone surrogates)."""
    return shown(name) == name


def shown(name: str) -> str:
    """A name as text in any case."""
    return name.encode("utf-8", "backslashreplace").decode()


def lines_of(data: bytes) -> list[str]:
    """The lines of a list in UTF-8, or in UTF-16 with its mark; a mark at the beginning is read over."""
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode("utf-16", "replace") if wide else data.decode("utf-8-sig", "surrogateescape")
    return [line.strip() for line in text.splitlines()]


def texts_of(column: Any) -> list[Any]:
    """The values of an Arrow column; text as `is_text` expects it, also where it is none."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    values = column.to_pylist()
    return [value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value for value in values]


def seed_of(value: Any) -> int | None:
    """A seed from a table's cell, None where it is empty; raises ValueError, with a cure, for what is none."""
    if value is None or value != value:  # NaN, which pandas makes of an empty cell
        return None
    if not isinstance(value, int | float) or value != int(value) or not 0 <= value <= LARGEST_SEED:
        raise ValueError(f"{value!r} is no seed; give a whole number from 0 to {LARGEST_SEED}, or nothing")
    return int(value)
