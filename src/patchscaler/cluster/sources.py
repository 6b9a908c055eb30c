"""Where a job's pictures come from: a folder, a list, Parquet tables of paths or bytes, tar shards."""

import io
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from patchscaler.cluster.places import Place, place_of
from patchscaler.errors import ConfigError, ImageReadError, PatchScalerError

PATH_COLUMNS = ("path", "url", "file", "file_name")
BYTES_COLUMNS = ("bytes", "data", "image", "content")
NAME_COLUMNS = ("name", "key", "id", "__key__")
READERS = 8  # files that one task reads at a time: it mostly waits


class Unit(NamedTuple):
    """What one reading task takes: a picture's file, a row group of a Parquet file, or a tar shard.

    kind   file, rows or tar
    url    of the file
    key    of the picture, by which the manifest knows it; of rows and tars: what their pictures' keys begin with
    name   of the picture, relative, after which its result is called; likewise
    group  of rows: number of the row group
    first  of rows: number of its first row in the file
    seed   of this picture's noise; None: the job's
    """

    kind: str
    url: str
    key: str
    name: str
    group: int = 0
    first: int = 0
    seed: int | None = None


class Found(NamedTuple):
    """A picture's file in memory, or why there is none."""

    key: str
    name: str
    seed: int | None
    data: bytes | None
    reason: str | None = None


def find_units(source: str) -> list[Unit]:
    """The units of a folder, list (.txt), Parquet or tar file, glob pattern of such, or URL of one; sorted.

    A folder is searched for pictures with all its subfolders; without any, for shards and then for Parquet files.
    Raises ConfigError for a source without pictures, and where two pictures would have the same key.
    """
    from patchscaler.imaging.files import PICTURE_SUFFIXES

    root, places = _listed(source)
    by_suffix: dict[str, list[Place]] = {}
    for place in places:
        by_suffix.setdefault(PurePosixPath(place.path).suffix.lower(), []).append(place)
    pictures = sorted(place for suffix in PICTURE_SUFFIXES for place in by_suffix.get(suffix, []))
    if pictures:
        units = [_file(place, place.path[len(root) :].strip("/")) for place in pictures]
    elif ".tar" in by_suffix:
        units = [Unit("tar", str(place), *2 * (_stem(place),)) for place in by_suffix[".tar"]]
    elif ".parquet" in by_suffix:
        units = [unit for place in by_suffix[".parquet"] for unit in _units_of_table(place)]
    elif ".txt" in by_suffix:
        units = [unit for place in by_suffix[".txt"] for unit in _units_of_list(place)]
    else:
        raise ConfigError(f"{source}: no pictures, .tar, .parquet or .txt there; name a folder or file that has some")
    seen: dict[str, Unit] = {}
    for unit in units:
        name = f"{unit.key}#{unit.group}" if unit.kind == "rows" else unit.key
        if name in seen:
            raise ConfigError(f"{unit.url} and {seen[name].url}: both are called {unit.key}; rename or remove one")
        seen[name] = unit
    return units


def read_units(units: Sequence[Unit], done: Collection[str] = frozenset()) -> Iterator[Found]:
    """The pictures of these units but those whose keys are in `done`. What can't be read has a reason instead."""
    files = [unit for unit in units if unit.kind == "file" and unit.key not in done]
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(files), 2 * READERS):  # not all at once: they lie in memory
            yield from pool.map(_read_file, files[start : start + 2 * READERS])
    for unit in units:
        if unit.kind != "file":
            yield from _read_all(unit, done)


def _listed(source: str) -> tuple[str, list[Place]]:
    """The folder that pictures are named from, and all files that a source means."""
    from fsspec.utils import get_protocol

    place = place_of(source)
    try:
        if any(sign in source for sign in "*?[") and not get_protocol(source).startswith("http"):
            fixed = re.split(r"[*?\[]", place.path)[0]
            return fixed.rpartition("/")[0], [Place(place.fs, path) for path in sorted(place.fs.glob(place.path))]
        if place.fs.isdir(place.path):
            return place.path.rstrip("/"), place.files()
        if not place.exists():
            raise ConfigError(f"{source}: no such file or folder; check the path")
    except (OSError, ImportError) as error:
        raise ConfigError(f"{source}: cannot be listed ({error}); check the path and your access to it") from error
    return place.path.rpartition("/")[0], [place]


def _stem(place: Place) -> str:
    return PurePosixPath(place.path).stem


def _file(place: Place, name: str, key: str | None = None, seed: int | None = None) -> Unit:
    return Unit("file", str(place), key or name, name, seed=seed)


def _units_of_list(place: Place) -> list[Unit]:
    """A path or URL a line, relative ones beside the list; empty lines and those that begin with # are left out."""
    lines = [line.strip() for line in place.read().decode("utf-8").splitlines()]
    paths = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    return _units_of_paths(place, paths, [None] * len(paths))


def _units_of_paths(table: Place, paths: Sequence[str], seeds: Sequence[int | None]) -> list[Unit]:
    """Pictures are called after what their paths don't have in common."""
    folder = table.path.rpartition("/")[0]
    places = [place_of(path) if _is_absolute(path) else Place(table.fs, f"{folder}/{path}") for path in paths]
    plain = [place.path.split("?")[0] for place in places]
    parents = [path.split("/")[:-1] for path in plain]
    shortest, longest = (min(parents, default=[]), max(parents, default=[]))
    common = next((i for i, (a, b) in enumerate(zip(shortest, longest, strict=False)) if a != b), len(shortest))
    names = ["/".join(path.split("/")[common:]) for path in plain]
    return [_file(*each) for each in zip(places, names, paths, seeds, strict=True)]


def _is_absolute(path: str) -> bool:
    return "://" in path or path.startswith("/")


def _units_of_table(place: Place) -> list[Unit]:
    """A Parquet file of paths: its pictures; of bytes: its row groups."""
    import pyarrow.parquet as parquet

    try:
        with place.fs.open(place.path, "rb") as file:
            table = parquet.ParquetFile(file)
            names = table.schema_arrow.names
            if (column := _first(PATH_COLUMNS, names)) and not _first(BYTES_COLUMNS, names):
                content = table.read([column, *(["seed"] if "seed" in names else [])])
                seeds = content["seed"].to_pylist() if "seed" in names else [None] * len(content)
                return _units_of_paths(place, content[column].to_pylist(), seeds)
            if not _first(BYTES_COLUMNS, names):
                known = ", ".join((*PATH_COLUMNS, *BYTES_COLUMNS))
                raise ConfigError(f"{place}: has no column of paths or bytes; call one of them {known}")
            if name := _first(NAME_COLUMNS, names):
                _check_names(place, table.read([name])[name].to_pylist())
            counts = [table.metadata.row_group(group).num_rows for group in range(table.metadata.num_row_groups)]
    except PatchScalerError:
        raise
    except Exception as error:
        raise ConfigError(f"{place}: cannot be read as Parquet ({error}); write it again or leave it out") from error
    firsts = [sum(counts[:group]) for group in range(len(counts))]
    stem = _stem(place)
    return [Unit("rows", str(place), stem, stem, group, first) for group, first in enumerate(firsts)]


def _check_names(place: Place, names: Sequence[Any]) -> None:
    counts = Counter(stem_of(str(name)) for name in names)
    if len(counts) < len(names):
        raise ConfigError(f"{place}: several pictures are called {counts.most_common(1)[0][0]}; give each its own name")


def stem_of(name: str) -> str:
    """A picture's name without its ending, below any folder it is put in."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return str(PurePosixPath(*parts).with_suffix("")) if parts else "picture"


def _first(wanted: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in names), None)


def _read_file(unit: Unit) -> Found:
    try:
        return Found(unit.key, unit.name, unit.seed, place_of(unit.url).read())
    except PatchScalerError as error:
        return Found(unit.key, unit.name, unit.seed, None, str(error))


def _read_all(unit: Unit, done: Collection[str]) -> Iterator[Found]:
    """The pictures of a row group or shard; where it is damaged, a last one with its key alone says so."""
    read: Callable[[Unit], Iterator[Found]] = _read_rows if unit.kind == "rows" else _read_tar
    seen: set[str] = set()
    try:
        for found in read(unit):
            if (stem := stem_of(found.name)) in seen:
                reason = f"{unit.url}: has another picture whose result has the same name, {found.name}; rename one"
                found = found._replace(data=None, reason=reason)
            seen.add(stem)
            if found.key not in done:
                yield found
    except Exception as error:
        reason = " ".join(str(error).split())
        last = Found(
            f"{unit.key}#{unit.group}", unit.name, None, None, f"{unit.url}: damaged ({reason}); write it anew"
        )
        if last.key not in done:
            yield last


def _read_rows(unit: Unit) -> Iterator[Found]:
    """Column `name`, `key` or `id` names the pictures, or else their row's number does; `seed` may give their noise."""
    import pyarrow.parquet as parquet

    place = place_of(unit.url)
    with place.fs.open(place.path, "rb") as file:
        table = parquet.ParquetFile(file)
        names = table.schema_arrow.names
        data, name = _first(BYTES_COLUMNS, names), _first(NAME_COLUMNS, names)
        wanted = [column for column in (data, name, "seed" if "seed" in names else None) if column]
        number = unit.first
        for batch in table.iter_batches(2 * READERS, row_groups=[unit.group], columns=wanted):
            for row in batch.to_pylist():
                called = str(row[name]) if name else f"{number:08d}"
                value: Any = row[data]
                value = value.get("bytes") if isinstance(value, dict) else value  # datasets' pictures: {bytes, path}
                reason = None if value else f"{unit.url}: row {number} has no bytes; fill it or leave it out"
                key, seed = f"{unit.key}/{called}", row.get("seed")
                yield Found(key, f"{unit.name}/{called}", seed, value or None, reason)
                number += 1


def _read_tar(unit: Unit) -> Iterator[Found]:
    """Members with a picture's ending, such as webdataset's; others are left out."""
    from patchscaler.imaging.files import PICTURE_SUFFIXES

    place = place_of(unit.url)
    with place.fs.open(place.path, "rb") as file, tarfile.open(fileobj=io.BufferedReader(file), mode="r|*") as tar:
        for member in tar:
            if not member.isfile() or PurePosixPath(member.name).suffix.lower() not in PICTURE_SUFFIXES:
                continue
            content = tar.extractfile(member)
            data = content.read() if content else b""
            if len(data) != member.size:
                raise ImageReadError("it ends too early")
            name = member.name.removeprefix("./").lstrip("/")
            yield Found(f"{unit.key}/{name}", f"{unit.name}/{name}", None, data)
