"""Where a job's results go: files in a folder, webdataset shards, or Parquet tables. Each part is written whole.

A part's name is made of its pictures' keys, so that a part that is written again replaces itself.
"""

import io
import json
import tarfile
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa

from patchscaler.cluster.manifest import FOLDER, Row, encoded, is_part_name, part_name, rows_of, table_of
from patchscaler.cluster.reading import unpacked
from patchscaler.cluster.storage import StoragePath, is_own_leftover
from patchscaler.errors import ConfigError, ImageReadError, ImageWriteError

KINDS = ("folder", "shards", "parquet")
SUFFIXES = {"shards": ".tar", "parquet": ".parquet"}


class Result(NamedTuple):
    """A picture's row of the manifest, and its file, None where there is none; sample and fields as in `Found`."""

    row: Row
    data: bytes | None
    sample: str | None = None
    fields: bytes | None = None


def result_table(results: Sequence[Result]) -> pa.Table:
    """The columns of Row, and those of Result beside them."""
    table = table_of(Row, [result.row for result in results])
    for name, kind in (("data", pa.large_binary()), ("sample", pa.string()), ("fields", pa.large_binary())):
        table = table.append_column(name, pa.array([getattr(result, name) for result in results], kind))
    return table


def results_of(table: pa.Table) -> list[Result]:
    more = (table[name].to_pylist() for name in Result._fields[1:])
    return [Result(*each) for each in zip(rows_of(table), *more, strict=True)]


class Sink(NamedTuple):
    """root: a folder, anywhere; kind: one of KINDS."""

    root: StoragePath
    kind: str

    @classmethod
    def at(cls, url: str, kind: str) -> "Sink":
        """Raises ConfigError."""
        if kind not in KINDS:
            raise ConfigError(f"--to {kind}: choose {', '.join(KINDS)}")
        return cls(StoragePath.at(url), kind)

    def write(self, results: Sequence[Result]) -> list[Row]:
        """The files of these results; their rows, completed, in the same order. What can't be written fails."""
        if self.kind == "folder":
            return [self._write_file(result) for result in results]
        done = [result for result in results if result.data is not None]
        if not done:
            return [result.row for result in results]
        name = part_name([result.row.key for result in results]) + SUFFIXES[self.kind]
        try:
            (self.root / name).write(_tar_of(done) if self.kind == "shards" else _table_of(done))
        except ImageWriteError as error:
            return [result.row._replace(status="failed", reason=result.row.reason or str(error)) for result in results]
        return [result.row._replace(shard=name) if result.data is not None else result.row for result in results]

    def _write_file(self, result: Result) -> Row:
        if result.data is None:
            return result.row
        from patchscaler.imaging.searching import is_result

        file = self.root / result.row.result
        try:
            if file.exists() and not is_result(file.read()):
                cure = "move it away, or choose another sink"
                raise ImageWriteError(f"{file}: exists and is no result of PatchScaler; {cure}")
            file.write(result.data)
        except (ImageReadError, ImageWriteError) as error:
            return result.row._replace(status="failed", reason=str(error))
        return result.row

    def tidy(self, committed: Collection[str]) -> list[str]:
        """Remove what a killed job has left: parts that no row speaks of, halves of files. Returns their names."""
        if not self.root.exists():
            return []
        gone = []
        for file in self.root.files(hidden=True):
            part = self.kind != "folder" and is_part_name(file.name, SUFFIXES[self.kind])
            orphan = part and f"/{FOLDER}/" not in file.path and file.name not in committed
            if is_own_leftover(file.name) or orphan:
                file.remove()
                gone.append(file.name)
        return gone


def _tar_of(results: Sequence[Result]) -> bytes:
    """A webdataset shard: of each sample the picture, its fields and a .json with its row.

    The latter is .patchscaler.json where the sample has a .json of its own.
    """
    file, taken = io.BytesIO(), set[str]()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for result in results:
            path = PurePosixPath(result.row.result)
            # A sample's name ends at its first dot.
            sample = result.sample or ""
            if not sample or "." in PurePosixPath(sample).name or sample in taken:
                sample = str(path.with_name(path.stem.replace(".", "_")))
            taken.add(sample)
            (values,) = unpacked(result.fields).to_pylist() or [{}]
            row = ".patchscaler.json" if "json" in values else ".json"
            members = {path.suffix: result.data, **{f".{name}": value for name, value in values.items()}}
            for suffix, value in {**members, row: json.dumps(result.row._asdict(), ensure_ascii=False) + "\n"}.items():
                data = _as_member(value)
                member = tarfile.TarInfo(sample + suffix)
                member.size, member.mode = len(data), 0o644
                tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def _as_member(value: Any) -> bytes:
    """A field as a file of a shard: bytes and text as they are, else JSON."""
    if isinstance(value, bytes):
        return value
    return (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)).encode()


def _table_of(results: Sequence[Result]) -> bytes:
    """Columns key (the sample's own where it has one), name and bytes, and its fields."""
    columns: dict[str, Any] = {
        "key": pa.array([result.sample or result.row.key for result in results], pa.string()),
        "name": pa.array([result.row.result for result in results], pa.string()),
        "bytes": pa.array([result.data for result in results], pa.large_binary()),
    }
    fields = [unpacked(result.fields) for result in results]
    for name in dict.fromkeys(name for each in fields for name in each.column_names if name not in columns):
        values = [each[name].to_pylist()[0] if name in each.column_names else None for each in fields]
        kinds = {each.schema.field(name).type for each in fields if name in each.column_names}
        if len(kinds) > 1:  # of several tables
            columns[name] = pa.array([value if value is None else str(value) for value in values], pa.string())
        else:
            columns[name] = pa.array(values, kinds.pop())
    return encoded(pa.table(columns), compression="none")  # pictures are compressed already
