"""A job's results: how they are written."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

from batch_files import found, put, results
from command_files import files_in
from patchscaler.cluster.manifest import Row
from patchscaler.cluster.sinks import Sink
from patchscaler.cluster.storage import StoragePath
from patchscaler.errors import ConfigError, ImageWriteError


def test_a_folder_of_results(root: str) -> None:
    sink = Sink.at(root, "folder")
    rows = sink.write(results("a", "day 2/b", failed="c"))
    assert rows == [result.row for result in results("a", "day 2/b", failed="c")]
    assert [(place.path.rpartition(root.rpartition("/")[2])[2], place.read()) for place in sink.root.files()] == [
        ("/a_x4.png", b"a"),
        ("/day 2/b_x4.png", b"day 2/b"),
    ]


def test_shards_of_results(root: str) -> None:
    sink = Sink.at(root, "shards")
    rows = sink.write(results("a", "x/b.c", failed="d"))
    (place,) = sink.root.files()
    assert [row.shard for row in rows] == [place.name, place.name, ""]
    with tarfile.open(fileobj=io.BytesIO(place.read())) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    assert list(members) == ["a_x4.png", "a_x4.json", "x/b_c_x4.png", "x/b_c_x4.json"]  # one dot in a sample's name
    assert members["x/b_c_x4.png"] == b"x/b.c"
    assert json.loads(members["a_x4.json"])["key"] == "a"
    sink.write(results("a", "x/b.c", failed="d"))  # a task that is done again
    assert len(sink.root.files()) == 1
    assert sink.write(results(failed="d")) == [Row("d", "failed", "bad")]
    assert len(sink.root.files()) == 1


def test_tables_of_results_can_be_sources(root: str) -> None:
    sink = Sink.at(root, "parquet")
    sink.write(results("a", "x/b"))
    (place,) = sink.root.files()
    assert parquet.read_table(io.BytesIO(place.read())).to_pylist() == [
        {"key": name, "name": f"{name}_x4.png", "bytes": name.encode()} for name in ("a", "x/b")
    ]
    assert sorted(found(str(place)).values()) == [b"a", b"x/b"]


def test_a_result_that_cannot_be_written_fails(tmp_path: Path) -> None:
    (tmp_path / "day").write_text("a file where a folder should be")
    for kind, place in (("folder", tmp_path), ("shards", tmp_path / "day"), ("parquet", tmp_path / "day")):
        (row,) = Sink.at(str(place), kind).write(results("day/b"))
        assert row.status == "failed"
        assert "cannot be written" in row.reason
    with pytest.raises(ImageWriteError):
        StoragePath.at(str(tmp_path / "day" / "x")).write(b"")
    assert files_in(tmp_path) == ["day"]
    with pytest.raises(ConfigError, match="--to tape: choose folder, shards, parquet"):
        Sink.at(".", "tape")


def test_a_sink_keeps_files_that_are_not_ours(root: str) -> None:
    put(root, {"a_x4.png": b"somebody's", "part-00000.tar": b"theirs"})
    mine, other = results("a", "b")
    failed, done = Sink.at(root, "folder").write([mine, other])
    assert (failed.status, done.status) == ("failed", "done")
    assert "a_x4.png: exists and is no result of PatchScaler; move it away" in failed.reason
    assert (StoragePath.at(root) / "a_x4.png").read() == b"somebody's"
    assert Sink.at(root, "shards").tidy(set()) == []
