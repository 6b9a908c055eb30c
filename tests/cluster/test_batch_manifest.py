"""A job's manifest: what is committed when, and what a killed job leaves behind."""

import io
import threading
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

from batch_files import marked, put, results
from command_files import files_in
from patchscaler.cluster.job import commit
from patchscaler.cluster.manifest import Ledger, Row, rows_of, table_of
from patchscaler.cluster.retries import MOST, Retries
from patchscaler.cluster.sinks import Sink
from patchscaler.cluster.storage import StoragePath
from patchscaler.errors import ConfigError, PatchScalerError


def rows_in(root: str, name: str) -> list[Row]:
    return rows_of(parquet.read_table(io.BytesIO((StoragePath.at(root) / f"_batch/{name}.parquet").read())))


def test_rows_are_committed_and_merged(root: str) -> None:
    ledger = Ledger(StoragePath.at(root))
    ledger.open({"steps": [1, 2, 3]})
    assert rows_in(root, "manifest") == rows_in(root, "failures") == []  # they exist from the beginning
    rows = [Row("b", "done", seconds=1.5, height=3), Row("a", "done"), Row("c", "failed", "why")]
    ledger.add(rows[:1])
    ledger.add(rows[1:])
    again = Ledger(StoragePath.at(root))  # the driver was killed
    again.open({"steps": [1, 2, 3]})
    assert again.keys == {"a", "b", "c"}
    assert rows_in(root, "manifest") == [rows[1], rows[0]]
    assert rows_in(root, "failures") == [rows[2]]
    assert not [place for place in StoragePath.at(root).files() if "/parts/" in place.path]
    again.add([Row("d", "done")])
    again.close()
    assert [row.key for row in rows_in(root, "manifest")] == ["a", "b", "d"]
    with pytest.raises(ConfigError, match=r"job with steps \[1, 2, 3\] instead of \[0, 0, 1\]"):
        Ledger(StoragePath.at(root)).open({"steps": [0, 0, 1]})
    third = Ledger(StoragePath.at(root))
    third.open({"steps": [1, 2, 3]}, retry_failed=True)
    assert third.keys == {"a", "b", "d"}
    assert rows_in(root, "failures") == []


def test_a_merge_that_was_cut_off_doubles_nothing(root: str) -> None:
    """Killed between the new manifest and the end of the parts in it."""
    ledger = Ledger(StoragePath.at(root))
    ledger.open({})
    ledger.add([Row("a", "done"), Row("b", "failed")])
    (part,) = (place for place in StoragePath.at(root).files() if "/parts/" in place.path)
    data = part.read()
    ledger.close()
    part.write(data)
    again = Ledger(StoragePath.at(root))
    again.open({})
    assert [row.key for row in rows_in(root, "manifest")] == ["a"]
    assert [row.key for row in rows_in(root, "failures")] == ["b"]


def test_rows_survive_a_table() -> None:
    rows = [
        Row("a", "done", "", "r", "s", "t", "u", 1, 2, 3, 4, 5, 0.5, "w", 2**40, 1, 2, 3, 4, 5, 6),
        Row("b", "failed"),
    ]
    assert rows_of(table_of(Row, rows)) == rows
    assert rows_of(table_of(Row, [])) == []


@pytest.mark.parametrize("kind", ["folder", "shards", "parquet"])
def test_what_a_killed_job_leaves_is_removed(root: str, kind: str) -> None:
    sink, ledger = Sink.at(root, kind), Ledger(StoragePath.at(root))
    ledger.open({})
    commit(ledger, sink, sink.write(results("a", "b")))
    sink.write(marked(results("c")))  # and killed before the commit
    put(root, {f".{'0' * 32}.part": b"half", "mine.tar": b"", "mine.parquet": b"", ".mine": b""})
    again = Ledger(StoragePath.at(root))
    again.open({})
    gone = sink.tidy(again.shards)
    assert len(gone) == (1 if kind == "folder" else 2)
    assert again.keys == {"a", "b"}
    names = {place.name for place in sink.root.files()}
    assert {"mine.tar", "mine.parquet", "manifest.parquet"} <= names
    commit(again, sink, sink.write(marked(results("c"))))
    again.close()
    assert [row.key for row in rows_in(root, "manifest")] == ["a", "b", "c"]
    assert sink.tidy(again.shards) == []


def test_a_picture_is_committed_once(root: str) -> None:
    """A part with a picture that is done already is not taken, and not left there: its others are made again."""
    sink, ledger = Sink.at(root, "shards"), Ledger(StoragePath.at(root))
    ledger.open({})
    first = sink.write(results("a", "b"))
    assert commit(ledger, sink, first) == first
    assert commit(ledger, sink, first) == []  # the same part, told twice
    second = sink.write(results("b", "c"))
    assert commit(ledger, sink, second) == []
    assert ledger.keys == {"a", "b"}
    assert [place.name for place in sink.root.files() if place.name.endswith(".tar")] == [first[0].shard]


def test_writes_are_whole_or_absent(tmp_path: Path) -> None:
    """Readers meet the old file or the new one, never a part of it."""
    place, seen = StoragePath.at(str(tmp_path / "x" / "file")), set()
    contents = [bytes([number]) * 300_000 for number in range(8)]
    place.write(contents[0])
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            seen.add(place.read())

    reader = threading.Thread(target=look)
    reader.start()
    for content in contents * 5:
        place.write(content)
    stop.set()
    reader.join()
    assert seen <= set(contents)
    assert files_in(tmp_path) == ["x/file"]


def test_retries_are_counted_until_they_end(root: str) -> None:
    retries = Retries(StoragePath.at(root))
    assert [retries.begin(["a", "b"]) for _ in range(3)] == [0, 1, 2]
    retries.end(["a", "b"])
    assert retries.begin(["a", "b"]) == 0
    for _ in range(MOST):
        retries.begin_alone("a")
    with pytest.raises(PatchScalerError, match=f"died each of {MOST} times"):
        retries.begin_alone("a")
    retries.forget()
    assert retries.begin(["a"]) == 0
