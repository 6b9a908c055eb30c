"""What a job knows of its pictures: a row for each that is done or has failed, kept beside the results.

A part of the manifest is written after the results that it speaks of, in one step: with it, its pictures are done. A
job that is killed leaves at most results that no part speaks of, which are made again.
"""

import hashlib
import io
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, get_args, get_type_hints

import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.parquet as parquet

from patchscaler.cluster.storage import StoragePath
from patchscaler.errors import ConfigError

FOLDER = "_batch"  # in the sink
JOB, MANIFEST, FAILURES, PARTS = "job.json", "manifest.parquet", "failures.parquet", "parts"


class Row(NamedTuple):
    """A picture.

    key            by which the source knows it
    status         done or failed; reason: why it failed, and what to do
    result         name of its file; shard: in which part, where results are packed
    source_sha256, result_sha256, result_bytes  of the files
    height, width, result_height, result_width  in pixels
    seconds        of the stages, and its share of the sampling together with others
    worker         process that made it, with its machine
    seed           of its noise
    patches_*      of each group; steps_*: sampling steps of a patch of the group
    """

    key: str
    status: str
    reason: str = ""
    result: str = ""
    shard: str = ""
    source_sha256: str = ""
    result_sha256: str = ""
    result_bytes: int = 0
    height: int = 0
    width: int = 0
    result_height: int = 0
    result_width: int = 0
    seconds: float = 0.0
    worker: str = ""
    seed: int = 0
    patches_simple: int = 0
    patches_medium: int = 0
    patches_hard: int = 0
    steps_simple: int = 0
    steps_medium: int = 0
    steps_hard: int = 0


class Ledger:
    """The manifest of one sink. One process at a time writes it: the job's driver."""

    def __init__(self, root: StoragePath) -> None:
        self.folder = root / FOLDER
        self.keys: set[str] = set()
        self.shards: set[str] = set()
        self.failed = 0

    def open(self, job: dict[str, Any], retry_failed: bool = False) -> None:
        """Take up what earlier runs have done. Raises ConfigError where another job's results lie there.

        job  what the results depend on, as JSON
        """
        file = self.folder / JOB
        if file.exists():
            before = json.loads(file.read())
            differing = [name for name in sorted({*before, *job}) if before.get(name) != job.get(name)]
            if differing:
                name = differing[0]
                was = f"{name} {json.dumps(before.get(name))} instead of {json.dumps(job.get(name))}"
                raise ConfigError(f"{self.folder}: belongs to a job with {was}; use the same options or another sink")
        else:
            file.write((json.dumps(job, indent=2) + "\n").encode())
        done, failed = self.close(keep_failed=not retry_failed)
        self.keys = {*done["key"].to_pylist(), *failed["key"].to_pylist()}
        self.shards, self.failed = set(done["shard"].to_pylist()), len(failed)

    def add(self, rows: Sequence[Row]) -> None:
        """Commit a part: once this has returned, its pictures are done."""
        keys = [row.key for row in rows]
        (self.folder / PARTS / f"{part_name(keys)}.parquet").write(encoded(table_of(Row, rows)))
        self.keys.update(keys)

    def close(self, keep_failed: bool = True) -> tuple[pa.Table, pa.Table]:
        """One manifest and one table of failures instead of many parts; both. If cut off, nothing is lost."""
        folder = self.folder / PARTS
        parts = [part for part in folder.files() if part.name.endswith(".parquet")] if folder.exists() else []
        kept = [file for file in (self.folder / MANIFEST, self.folder / FAILURES) if file.exists()]
        read = (parquet.read_table(io.BytesIO(file.read())).select(Row._fields) for file in (*kept, *parts))
        rows = pa.concat_tables([table_of(Row, []), *read])
        # A part may be in the manifest already, and not have been removed any more.
        first = {key: number for number, key in reversed(list(enumerate(rows["key"].to_pylist())))}
        rows = rows.take(pa.array([first[key] for key in sorted(first)], pa.int64()))
        done, failed = (rows.filter(compute.equal(rows["status"], status)) for status in ("done", "failed"))
        if not keep_failed:
            failed = failed.slice(0, 0)
        for name, table in ((MANIFEST, done), (FAILURES, failed)):
            (self.folder / name).write(encoded(table))
        for part in parts:
            part.remove()
        return done, failed


def part_name(keys: Sequence[str]) -> str:
    """Without ending; the same for the same pictures in the same order."""
    return f"part-{hashlib.sha256(json.dumps(list(keys)).encode()).hexdigest()[:16]}"


def is_part_name(name: str, suffix: str) -> bool:
    """Whether a file is one of ours by its name; other programs' parts have other ones, such as part-00000.parquet."""
    return re.fullmatch(rf"part-[0-9a-f]{{16}}{re.escape(suffix)}", name) is not None


def table_of(kind: Any, rows: Sequence[Any]) -> pa.Table:
    """An Arrow table with the columns of a named tuple of text, numbers and bytes, also where there are no rows."""
    kinds = {str: pa.string(), int: pa.int64(), float: pa.float64(), bytes: pa.large_binary()}
    hints = {name: (get_args(hint) or (hint,))[0] for name, hint in get_type_hints(kind).items()}  # X of X | None
    schema = pa.schema([(name, kinds[hint]) for name, hint in hints.items()])
    return pa.Table.from_pylist([row._asdict() for row in rows], schema=schema)


def rows_of(table: pa.Table) -> list[Row]:
    return [Row(**row) for row in table.select(Row._fields).to_pylist()]


def encoded(table: pa.Table, **options: Any) -> bytes:
    """A table as a Parquet file."""
    file = io.BytesIO()
    parquet.write_table(table, file, **options)
    return file.getvalue()
