"""Where a job's pictures come from: a folder, a list, Parquet tables of paths or bytes, tar shards."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from patchscaler.cluster.names import NOT_TEXT, is_text, lines_of, seed_of, shown, texts_of
from patchscaler.cluster.places import Place, place_of
from patchscaler.errors import ConfigError, PatchScalerError

PATH_COLUMNS = ("path", "url", "file", "file_name")
BYTES_COLUMNS = ("bytes", "data", "image", "content")
NAME_COLUMNS = ("name", "key", "id", "__key__")


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

    root, places = _listed(source)
    by_suffix: dict[str, list[Place]] = {}
    for place in places:
        by_suffix.setdefault(PurePosixPath(place.path).suffix.lower(), []).append(place)
    pictures = sorted(place for suffix in PICTURE_SUFFIXES for place in by_suffix.get(suffix, []))
    if pictures and _is_local_folder(source):
        from patchscaler.imaging.searching import is_result

        pictures = [place for place in pictures if not is_result(Path(place.path))]
        if not pictures:
            raise ConfigError(f"{source}: holds only results of PatchScaler; name them in a list (.txt), if you will")
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


def _is_local_folder(source: str) -> bool:
    place = place_of(source)
    return place.is_local and bool(place.fs.isdir(place.path))


def _file(place: Place, name: str, key: str | None = None, seed: int | None = None) -> Unit:
    unit = Unit("file", str(place), key or name, name, seed=seed)
    return unit if is_text(unit.url + unit.key) else _lost(shown(unit.key), NOT_TEXT)


def _lost(key: str, why: str) -> Unit:
    """A picture that fails."""
    return Unit("file", "", key, key, reason=f"{key}: {why}")


def _units_of_list(place: Place) -> list[Unit]:
    """A path or URL a line, relative ones beside the list; empty lines and those that begin with # are left out."""
    paths = list(dict.fromkeys(line for line in lines_of(place.read()) if line and not line.startswith("#")))
    return _units_of_paths(place, paths, [None] * len(paths))


def _units_of_paths(table: Place, paths: Sequence[Any], seeds: Sequence[Any]) -> list[Unit]:
    """Pictures are called after what their paths don't have in common; what is no path or seed is a picture lost."""
    folder = table.path.rpartition("/")[0]
    units: list[Unit] = []
    good: list[tuple[Place, str, int | None]] = []
    for number, (path, seed) in enumerate(zip(paths, seeds, strict=True)):
        if not isinstance(path, str) or not path:
            units.append(_lost(f"{_stem(table)}#{number}", f"row {number} has no path; fill it or leave it out"))
            continue
        try:
            place = place_of(path) if _is_absolute(path) else Place(table.fs, f"{folder}/{path}")
            good.append((place, path, seed_of(seed)))
        except (ValueError, PatchScalerError) as error:
            units.append(_lost(shown(path), str(error)))
    plain = [place.path.split("?")[0] for place, _, _ in good]
    parents = [path.split("/")[:-1] for path in plain]
    shortest, longest = (min(parents, default=[]), max(parents, default=[]))
    common = next((i for i, (a, b) in enumerate(zip(shortest, longest, strict=False)) if a != b), len(shortest))
    names = ["/".join(path.split("/")[common:]) for path in plain]
    return [*units, *(_file(place, name, key, seed) for (place, key, seed), name in zip(good, names, strict=True))]


def _is_absolute(path: str) -> bool:
    return "://" in path or path.startswith("/")


def _units_of_table(place: Place) -> list[Unit]:
    """A Parquet file of paths: its pictures; of bytes: its row groups."""
    import pyarrow.parquet as parquet

    try:
        with place.fs.open(place.path, "rb") as file:
            table = parquet.ParquetFile(file)
            names = table.schema_arrow.names
            if (column := first_of(PATH_COLUMNS, names)) and not first_of(BYTES_COLUMNS, names):
                content = table.read([column, *(["seed"] if "seed" in names else [])])
                seeds = content["seed"].to_pylist() if "seed" in names else [None] * len(content)
                return _units_of_paths(place, texts_of(content[column]), seeds)
            if not first_of(BYTES_COLUMNS, names):
                known = ", ".join((*PATH_COLUMNS, *BYTES_COLUMNS))
                raise ConfigError(f"{place}: has no column of paths or bytes; call one of them {known}")
            if name := first_of(NAME_COLUMNS, names):
                _check_names(place, [each for each in texts_of(table.read([name])[name]) if each is not None])
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


def first_of(wanted: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in names), None)
