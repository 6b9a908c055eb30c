"""A job's pictures from their files: one by one, or row by row and sample by sample, with what belongs to them."""

import io
import tarfile
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as parquet

from patchscaler.cluster.sources import (
    BYTES_COLUMNS,
    NAME_COLUMNS,
    NOT_TEXT,
    Unit,
    first_of,
    is_text,
    seed_of,
    shown,
    stem_of,
    texts_of,
)
from patchscaler.cluster.storage import StoragePath
from patchscaler.errors import ImageReadError, PatchScalerError

READERS = 8  # files that one task reads at a time: it mostly waits


class Found(NamedTuple):
    """A picture's file in memory, or why there is none.

    sample  by which its shard or table calls it
    fields  what belongs to it there beside the picture, by `packed`
    """

    key: str
    name: str
    seed: int | None
    data: bytes | None
    reason: str | None = None
    sample: str | None = None
    fields: bytes | None = None


def packed(fields: dict[str, Any] | pa.Table) -> bytes | None:
    """A sample's other fields, a dict of bytes or an Arrow table of one row, as bytes; None where there are none."""
    table = pa.table({name: [value] for name, value in fields.items()}) if isinstance(fields, dict) else fields
    if not table.num_columns:
        return None
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


def unpacked(fields: bytes | None) -> pa.Table:
    """The Arrow table of one row that was `packed`; of none where there are no fields."""
    return pa.table({}) if fields is None else pa.ipc.open_stream(fields).read_all()


def read_units(units: Sequence[Unit], done: Collection[str] = frozenset()) -> Iterator[Found]:
    """The pictures of these units but those whose keys are in `done`. What can't be read has a reason instead."""
    files = [unit for unit in units if unit.kind == "file" and unit.key not in done]
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(files), 2 * READERS):  # not all at once: they lie in memory
            yield from pool.map(_read_file, files[start : start + 2 * READERS])
    for unit in units:
        if unit.kind != "file":
            yield from _read_all(unit, done)


def _read_file(unit: Unit) -> Found:
    found = Found(unit.key, unit.name, unit.seed, None, unit.reason)
    if unit.reason is not None:
        return found
    try:
        return found._replace(data=StoragePath.at(unit.url).read())
    except PatchScalerError as error:
        return found._replace(reason=str(error))


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
    """Column `name`, `key` or `id` names the pictures, or else their row's number does; `seed` may give their noise.

    The other columns belong to them.
    """
    source = StoragePath.at(unit.url)
    with source.fs.open(source.path, "rb") as file:
        table = parquet.ParquetFile(file)
        names = table.schema_arrow.names
        data, name = first_of(BYTES_COLUMNS, names), first_of(NAME_COLUMNS, names)
        others = [column for column in names if column not in (data, name, "seed")]
        number = unit.first
        for batch in table.iter_batches(2 * READERS, row_groups=[unit.group]):
            called = texts_of(batch[name]) if name else [None] * len(batch)
            seeds = batch["seed"].to_pylist() if "seed" in names else [None] * len(batch)
            fields = pa.Table.from_batches([batch]).select(others)
            for row, (cell, value, seed) in enumerate(zip(called, batch[data].to_pylist(), seeds, strict=True)):
                found = _of_row(unit, number, cell, value, seed)
                yield found._replace(fields=packed(fields.slice(row, 1)))
                number += 1


def _of_row(unit: Unit, number: int, cell: Any, value: Any, seed: Any) -> Found:
    called = f"{number:08d}" if cell is None else str(cell)
    value = value.get("bytes") if isinstance(value, dict) else value  # datasets' pictures: {bytes, path}
    reason = None
    if not value or not isinstance(value, bytes):
        reason = f"row {number} has no bytes; fill it or leave it out"
    elif not is_text(called):
        reason = f"row {number}: {NOT_TEXT}"
    try:
        seed = seed_of(seed)
    except ValueError as error:
        seed, reason = None, f"row {number}: {error}"
    key, name = (f"{prefix}/{shown(called)}" for prefix in (unit.key, unit.name))
    words = reason and f"{unit.url}: {reason}"
    return Found(key, name, seed, None if reason else value, words, None if cell is None else shown(called))


class _Member(NamedTuple):
    """A file of a shard. Its name up to the first dot is its sample's, the rest its field's."""

    name: str
    data: bytes

    @property
    def sample(self) -> str:
        folder, slash, file = self.name.rpartition("/")
        return folder + slash + file.partition(".")[0]

    @property
    def field(self) -> str:
        return self.name[len(self.sample) + 1 :]

    @property
    def is_picture(self) -> bool:
        from patchscaler.imaging.files import PICTURE_SUFFIXES

        return PurePosixPath(self.name).suffix.lower() in PICTURE_SUFFIXES


def _read_tar(unit: Unit) -> Iterator[Found]:
    """Members with a picture's ending, such as webdataset's; the others of the same sample belong to them."""
    sample: list[_Member] = []
    damage: Exception | None = None
    try:
        for member in _members(unit):
            if sample and member.sample != sample[0].sample:
                yield from _of_sample(unit, sample)
                sample = []
            sample.append(member)
    except GeneratorExit:
        raise
    except Exception as error:  # what is whole comes first
        damage = error
    yield from _of_sample(unit, sample)
    if damage:
        raise damage


def _members(unit: Unit) -> Iterator[_Member]:
    source = StoragePath.at(unit.url)
    with source.fs.open(source.path, "rb") as file, tarfile.open(fileobj=io.BufferedReader(file), mode="r|*") as tar:
        for member in tar:
            if member.isfile():
                content = tar.extractfile(member)
                data = content.read() if content else b""
                if len(data) != member.size:
                    raise ImageReadError("it ends too early")
                yield _Member(member.name.removeprefix("./").lstrip("/"), data)


def _of_sample(unit: Unit, sample: Sequence[_Member]) -> Iterator[Found]:
    pictures = [member for member in sample if member.is_picture]
    fields = {shown(member.field): member.data for member in sample if not member.is_picture and member.field}
    for member in pictures:
        reason = None if is_text(member.name) else f"{unit.url}: {shown(member.name)}: {NOT_TEXT}"
        name = shown(member.name)
        yield Found(
            f"{unit.key}/{name}",
            f"{unit.name}/{name}",
            None,
            None if reason else member.data,
            reason,
            shown(member.sample) if len(pictures) == 1 else None,  # of several, each becomes a sample
            packed(fields),
        )
