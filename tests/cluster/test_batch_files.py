"""A job's pictures: where they are found."""

import io
import json
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from batch_files import found, put
from command_files import make_result
from patchscaler.cluster import storage
from patchscaler.cluster.manifest import Row, table_of
from patchscaler.cluster.reading import Found, read_units
from patchscaler.cluster.sinks import Result, Sink, result_table
from patchscaler.cluster.sources import NOT_TEXT, Unit, find_units, stem_of
from patchscaler.cluster.storage import StoragePath
from patchscaler.errors import ConfigError, ImageReadError

PICTURES = {"a.png": b"one", "day 2/b.jpg": b"two", "day 2/c.WEBP": b"three"}


def tar_of(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def table(**columns: list) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.table(columns), file, row_group_size=2)
    return file.getvalue()


# Sources


def test_a_folder(root: str) -> None:
    put(root, PICTURES | {"notes.txt": b"", ".hidden.png": b"", "day 2/.b/x.png": b""})
    assert found(root) == PICTURES
    assert found(f"{root}/", frozenset({"a.png"})) == {k: v for k, v in PICTURES.items() if k != "a.png"}
    assert [unit.name for unit in find_units(f"{root}/day 2")] == ["b.jpg", "c.WEBP"]
    assert found(f"{root}/a.png") == {"a.png": b"one"}
    assert found(f"{root}/day*/*.jpg") == {"day 2/b.jpg": b"two"}


def test_a_list_of_paths_relative_to_it_and_not(root: str) -> None:
    put(root, PICTURES)
    absolute = str(StoragePath.at(root) / "a.png")
    lines = f"# mine\nday 2/b.jpg\n\n{absolute}\nday 2/b.jpg\nnowhere.png\n"
    put(root, {"list.txt": lines.encode()})
    read = found(f"{root}/list.txt")
    assert read == {"day 2/b.jpg": b"two", absolute: b"one", "nowhere.png": None}
    assert {unit.name for unit in find_units(f"{root}/list.txt")} == {"day 2/b.jpg", "a.png", "nowhere.png"}
    (missing,) = (each for each in read_units(find_units(f"{root}/list.txt")) if each.data is None)
    assert missing.reason is not None
    assert "nowhere.png" in missing.reason
    assert missing.reason.endswith("check the path")


def test_a_table_of_paths(root: str) -> None:
    put(root, PICTURES | {"t.parquet": table(path=["a.png", "day 2/b.jpg"], seed=[7, None], other=[1, 2])})
    pictures = list(read_units(find_units(f"{root}/t.parquet")))
    assert pictures == [Found("a.png", "a.png", 7, b"one"), Found("day 2/b.jpg", "day 2/b.jpg", None, b"two")]


def test_a_table_of_bytes(root: str) -> None:
    """By their own names, or by their numbers over all row groups; as datasets store them too."""
    data = [b"one", b"two", None, b"four", b"five"]
    put(root, {"named.parquet": table(bytes=data, name=["a.png", "b", "c", "d", "e"], seed=[1, 2, 3, 4, 5])})
    put(root, {"numbered.parquet": table(image=[{"bytes": each, "path": "x"} for each in data])})
    named = list(read_units(find_units(f"{root}/named.parquet")))
    assert [each.key for each in named] == [f"named/{name}" for name in ("a.png", "b", "c", "d", "e")]
    assert [(each.data, each.seed) for each in named] == list(zip(data, [1, 2, 3, 4, 5], strict=True))
    assert named[2].reason is not None
    assert "row 2 has no bytes" in named[2].reason
    numbered = found(f"{root}/numbered.parquet", frozenset({"numbered/00000001"}))
    assert list(numbered) == [f"numbered/{number:08d}" for number in (0, 2, 3, 4)]


def test_shards(root: str) -> None:
    put(root, {"s-0.tar": tar_of({"x/1.png": b"one", "x/1.json": b"{}", "2.jpg": b"two", "x/1.webp": b"again"})})
    put(root, {"s-1.tar": tar_of({"1.png": b"one"}), "readme.md": b""})
    expected = {"s-0/x/1.png": b"one", "s-0/2.jpg": b"two", "s-0/x/1.webp": None, "s-1/1.png": b"one"}
    assert found(root) == found(f"{root}/s-*.tar") == expected
    assert found(root, frozenset(expected)) == {}


def test_what_belongs_to_a_picture_travels_with_it(root: str) -> None:
    sample = {"x/1.jpg": b"one", "x/1.cls": b"7", "x/1.json": b'{"a": 1}', "2.png": b"two", "3.cls": b"nobody's"}
    put(root, {"s.tar": tar_of(sample), "t.parquet": table(image=[b"p", b"q"], id=["k", "l"], label=[3, 4])})
    one, two = read_units(find_units(f"{root}/s.tar"))
    rows = list(read_units(find_units(f"{root}/t.parquet")))
    assert [each.sample for each in (one, two, *rows)] == ["x/1", "2", "k", "l"]
    made = [
        Result(Row(each.key, "done", result=f"{each.name}_x4.png"), b"made", each.sample, each.fields)
        for each in (one, two, *rows)
    ]
    sent = result_table(made)  # as Ray carries them
    assert [sent[name].to_pylist() for name in ("sample", "fields")] == [
        [each.sample for each in made],
        [each.fields for each in made],
    ]
    (shard,) = {row.shard for row in Sink.at(root, "shards").write(made)}
    with tarfile.open(fileobj=io.BytesIO((StoragePath.at(root) / shard).read())) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert {name: data for name, data in members.items() if not name.endswith("json")} == {
        "x/1.png": b"made", "x/1.cls": b"7", "2.png": b"made", "k.png": b"made", "k.label": b"3", "l.png": b"made",
        "l.label": b"4",
    }  # fmt: skip
    assert members["x/1.json"] == b'{"a": 1}'
    assert json.loads(members["x/1.patchscaler.json"])["key"] == "s/x/1.jpg"
    assert json.loads(members["2.json"])["key"] == "s/2.png"
    (part,) = {row.shard for row in Sink.at(root, "parquet").write(made)}
    read = parquet.read_table(io.BytesIO((StoragePath.at(root) / part).read()))
    assert read["key"].to_pylist() == ["x/1", "2", "k", "l"]
    assert read["cls"].to_pylist() == [b"7", None, None, None]
    assert read["label"].to_pylist() == [None, None, 3, 4]


def test_samples_of_one_name_stay_apart(root: str) -> None:
    twins = [Result(Row(f"{s}/1.png", "done", result=f"{s}/1_x4.png"), s.encode(), "1") for s in ("s-0", "s-1")]
    (shard,) = {row.shard for row in Sink.at(root, "shards").write(twins)}
    with tarfile.open(fileobj=io.BytesIO((StoragePath.at(root) / shard).read())) as tar:
        assert tar.getnames() == ["1.png", "1.json", "s-1/1_x4.png", "s-1/1_x4.json"]


def test_damaged_shards_and_tables_fail_after_what_is_whole(root: str) -> None:
    whole = tar_of({"1.png": bytes(2000), "2.png": bytes(9000)})
    put(root, {"s.tar": whole[:6000], "empty/t.parquet": table(bytes=[b"x"])})
    first, last = read_units(find_units(f"{root}/s.tar"))
    assert (first.key, first.data) == ("s/1.png", bytes(2000))
    assert last.key == "s#0"
    assert last.reason is not None
    assert "s.tar: damaged (" in last.reason
    assert list(read_units(find_units(f"{root}/s.tar"), frozenset({"s/1.png", "s#0"}))) == []
    put(root, {"t.parquet": table(bytes=[b"x"])[:-9]})
    with pytest.raises(ConfigError, match=r"t.parquet: cannot be read as Parquet"):
        find_units(f"{root}/t.parquet")


@pytest.mark.parametrize(
    ("files", "source", "words"),
    [
        ({}, "nowhere", "no such file or folder"),
        ({"x/notes.md": b""}, "x", "no pictures, .tar, .parquet or .txt"),
        ({"x/a.tar": b"", "y/a.tar": b"", "x/.b": b""}, "", "both are called a"),
        (
            {"t.parquet": table(bytes=[b"1", b"2"], name=["a.png", "a.jpg"])},
            "t.parquet",
            "several pictures are called a",
        ),
        ({"t.parquet": table(words=["a"])}, "t.parquet", "no column of paths or bytes"),
    ],
)
def test_sources_that_are_none(root: str, files: dict[str, bytes], source: str, words: str) -> None:
    put(root, files)
    with pytest.raises(ConfigError, match=words):
        find_units(f"{root}/{source}")


def test_protocols_unknown_or_not_installed() -> None:
    with pytest.raises(ConfigError, match="gopher://x"):
        find_units("gopher://x")


def test_stems_stay_below_their_folder() -> None:
    assert stem_of("../../etc/x.y.png") == "etc/x.y"
    assert stem_of("a//./b") == "a/b"
    assert stem_of("..") == "picture"


def test_reads_are_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(storage, "PAUSE", 0.0)
    (tmp_path / "a").write_bytes(b"at last")
    file, failures = StoragePath.at(str(tmp_path / "a")), [OSError("hiccup")] * (storage.TRIES - 1)

    class Flaky:
        """A network's file system: a real one that fails now and then."""

        protocol = "file"

        def cat_file(self, path: str) -> bytes:
            if failures:
                raise failures.pop()
            return file.fs.cat_file(path)

    assert StoragePath(Flaky(), file.path).read() == b"at last"
    failures += [OSError("hiccup")] * storage.TRIES
    with pytest.raises(ImageReadError, match=r"could not be read \(hiccup\); try again later"):
        StoragePath(Flaky(), file.path).read()


# What is no text, or nothing


def lost(source: str) -> dict[str, str]:
    return {each.key: each.reason or "" for each in read_units(find_units(source)) if each.data is None}


def test_a_file_whose_name_is_no_text_is_one_that_fails(tmp_path: Path) -> None:
    put(str(tmp_path), {"a.png": b"one", os.fsdecode(b"lat\xe9.png"): b"two"})
    assert found(str(tmp_path)) == {"a.png": b"one", "lat\\udce9.png": None}
    assert lost(str(tmp_path)) == {"lat\\udce9.png": f"lat\\udce9.png: {NOT_TEXT}"}
    table_of(Found, list(read_units(find_units(str(tmp_path)))))  # what goes through Ray
    table_of(Unit, find_units(str(tmp_path)))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_with_any_mark_at_their_beginning(root: str, encoding: str) -> None:
    put(root, PICTURES | {"list.txt": "a.png\r\nday 2/b.jpg\r\n".encode(encoding)})
    assert found(f"{root}/list.txt") == {"a.png": b"one", "day 2/b.jpg": b"two"}


def test_a_line_that_is_no_text_and_a_wrong_protocol_are_pictures_that_fail(root: str) -> None:
    put(root, PICTURES | {"list.txt": b"a.png\ncaf\xe9.png\ngopher://x/y.png\n"})
    assert found(f"{root}/list.txt") == {"a.png": b"one", "caf\\udce9.png": None, "gopher://x/y.png": None}
    reasons = lost(f"{root}/list.txt")
    assert "not UTF-8; rename it" in reasons["caf\\udce9.png"]
    assert "gopher" in reasons["gopher://x/y.png"]


def test_members_of_a_shard_whose_names_are_no_text(root: str) -> None:
    put(root, {"s.tar": tar_of({"a.png": b"one", "caf\udce9.png": b"two", "b.png": b"three"})})
    assert found(f"{root}/s.tar") == {"s/a.png": b"one", "s/caf\\udce9.png": None, "s/b.png": b"three"}
    assert "not UTF-8" in lost(f"{root}/s.tar")["s/caf\\udce9.png"]


def test_empty_cells_of_a_table_cost_their_row_alone(root: str) -> None:
    paths = pa.array([b"a.png", None, b"caf\xe9.png", b"day 2/b.jpg"]).view(pa.string())
    put(root, PICTURES | {"t.parquet": table(path=paths, seed=[1.0, None, None, 2.5])})
    assert found(f"{root}/t.parquet") == {"a.png": b"one", "t#1": None, "caf\\udce9.png": None, "day 2/b.jpg": None}
    reasons = lost(f"{root}/t.parquet")
    assert reasons["t#1"] == "t#1: row 1 has no path; fill it or leave it out"
    assert "2.5 is no seed; give a whole number" in reasons["day 2/b.jpg"]


def test_odd_cells_of_a_table_of_bytes_cost_their_row_alone(root: str) -> None:
    names = pa.array([b"a", None, b"caf\xe9", None, b"e"]).view(pa.string())
    seeds = pa.array([1, -1, 3, None, float(2**63)], pa.float64())
    put(root, {"t.parquet": table(bytes=[b"1", b"2", b"3", None, b"5"], name=names, seed=seeds)})
    read = list(read_units(find_units(f"{root}/t.parquet")))
    assert {each.key: each.data for each in read} == {
        "t/a": b"1", "t/00000001": None, "t/caf\\udce9": None, "t/00000003": None, "t/e": None
    }  # fmt: skip
    table_of(Found, read)


# Whose a file is


def test_results_in_a_folder_are_no_pictures_of_a_job(tmp_path: Path) -> None:
    make_result(tmp_path / "a_x4.png")
    with pytest.raises(ConfigError, match="holds only results of PatchScaler; name them in a list"):
        find_units(str(tmp_path))
    put(str(tmp_path), {"a.png": b"one", "list.txt": b"a_x4.png"})
    assert list(found(str(tmp_path))) == ["a.png"]
    assert list(found(str(tmp_path / "list.txt"))) == ["a_x4.png"]
