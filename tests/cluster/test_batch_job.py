"""A batch job: results are those of single runs, bad pictures are told apart, finished ones are left alone."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from command_files import Call, files_in, truncated
from pages import ROOT, blocks
from patchscaler.cluster.job import Cluster, cut, describe, run_job, start_ray
from patchscaler.cluster.manifest import Ledger, Row, rows_of, table_of
from patchscaler.cluster.reading import Found
from patchscaler.cluster.retries import MOST, Retries
from patchscaler.cluster.sinks import Result, Sink, result_table
from patchscaler.cluster.storage import StoragePath
from patchscaler.cluster.worker import Work, Worker, name_clashes
from patchscaler.errors import ConfigError, PatchScalerError
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.tiles import patches_of
from patchscaler.options import Options

SAVING = {"quality": 95, "lossless": False, "metadata": True}


@pytest.fixture
def pictures(tmp_path: Path, photo: Image.Image) -> Path:
    """Five that can be read, three that can't."""
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    for name, size in (("a.png", (20, 14)), ("b.jpg", (41, 30)), ("deep/c.webp", (9, 33)), ("deep/d.png", (30, 30))):
        photo.resize(size).save(folder / name)
    photo.resize((12, 12)).convert("RGBA").save(folder / "e.png")
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("not a picture")
    (folder / "half.png").write_bytes(truncated(folder / "half.png"))
    return folder


def found_in(folder: Path) -> list[Found]:
    paths = sorted(path for path in folder.rglob("*.*") if path.is_file())
    return [Found(str(p.relative_to(folder)), str(p.relative_to(folder)), None, p.read_bytes()) for p in paths]


def work_of(model: Path, **more: object) -> Work:
    return Work(str(model), {"scale": 4}, Options(steps=(1, 1, 1)), SAVING, **more)


def levels(file: Path | bytes) -> np.ndarray:
    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
        return np.asarray(image.convert("RGBA")).astype(int)


def same(single: Path, results: dict[str, bytes]) -> None:
    """To the last level but one, where another processor may round elsewhere with other batches."""
    assert sorted(results) == files_in(single)
    for name, data in results.items():
        expected, result = levels(single / name), levels(data)
        assert expected.shape == result.shape
        assert np.abs(expected - result).max() <= 1


def test_a_worker_makes_what_single_runs_make(upscale: Call, tmp_path: Path, tiny_model: Path, pictures: Path) -> None:
    answer = upscale("in", "-r", "-o", "single")
    retries = Retries(StoragePath.at(str(tmp_path / "sink")))
    results = list(Worker(work_of(tiny_model), retries)(found_in(pictures)))
    same(tmp_path / "single", {result.row.result: result.data for result in results if result.data is not None})
    failed = {f"patchscaler: in/{result.row.reason}" for result in results if result.data is None}
    assert failed == set(answer.err.splitlines())
    assert len(failed) == 3
    (row,) = (result.row for result in results if result.row.key == "b.jpg")
    assert (row.height, row.width, row.result_height, row.result_width) == (30, 41, 120, 164)
    assert row.patches_simple + row.patches_medium + row.patches_hard == patches_of(Size(30, 41), 16, 4)
    assert (row.steps_simple, row.steps_medium, row.steps_hard, row.seed) == (1, 1, 1, 0)
    assert row.seconds > 0
    assert files_in(tmp_path / "sink") == []  # no retry is noted
    assert rows_of(result_table(results)) == [result.row for result in results]


def test_a_tables_seed_is_the_pictures(upscale: Call, tmp_path: Path, tiny_model: Path, pictures: Path) -> None:
    upscale("in/a.png", "-o", "single/", "--seed", "7")
    worker = Worker(work_of(tiny_model), Retries(StoragePath.at(str(tmp_path / "sink"))))
    plain, seeded = worker([found._replace(seed=seed) for found in found_in(pictures)[:1] for seed in (None, 7)])
    same(tmp_path / "single", {seeded.row.result: seeded.data})
    assert seeded.row.seed == 7
    assert plain.data != seeded.data


def test_what_killed_its_worker_is_tried_alone_and_given_up(tmp_path: Path, tiny_model: Path, pictures: Path) -> None:
    retries = Retries(StoragePath.at(str(tmp_path / "sink")))
    chosen = found_in(pictures)[:2]
    keys = [found.key for found in chosen]
    retries.begin(keys)  # by a worker that died
    for _ in range(MOST):
        retries.begin([keys[1]])
    good, bad = Worker(work_of(tiny_model), retries)(chosen)
    assert good.row.status == "done"
    assert bad.row == Row(
        "b.jpg",
        "failed",
        f"b.jpg: its worker died each of {MOST} times it was tried; it may need more memory",
        worker=bad.row.worker,
    )
    assert files_in(tmp_path / "sink") == []


@given(st.integers(0, 5000), st.integers(1, 64), st.integers(1, 70))
def test_batches_get_smaller_towards_the_end(count: int, together: int, actors: int) -> None:
    slices = cut(count, together, actors)
    assert [number for start, stop in slices for number in range(start, stop)] == list(range(count))
    sizes = [stop - start for start, stop in slices]
    assert sizes == sorted(sizes, reverse=True)
    assert all(1 <= size <= together for size in sizes)


def test_names_of_results(tiny_model: Path) -> None:
    work = work_of(tiny_model)
    assert work.result_name("day 2/b.jpg") == "day 2/b_x4.png"
    same_kind = work_of(tiny_model, label="max50", suffix="same")
    assert [same_kind.result_name(name) for name in ("a.JPG", "b.gif", "c")] == [
        "a_max50.jpg",
        "b_max50.png",
        "c_max50.png",
    ]
    assert name_clashes(work, [("1", "a.png"), ("2", "b.png"), ("3", "a.jpg")]) == ("a_x4.png", "1", "3")
    assert name_clashes(same_kind, [("1", "a.png"), ("3", "a.jpg")]) is None


def test_nothing_to_do_needs_no_ray(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All pictures are finished; the manifest is there all the same, and docs/batch.md says how failures are read."""
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"broken")
    sink, work = Sink.at(str(tmp_path / "enlarged"), "folder"), work_of(tiny_model)
    ledger = Ledger(sink.root)
    ledger.open(describe(sink, work))
    ledger.add([Row("a.png", "failed", "broken")])
    assert run_job(str(tmp_path / "in"), sink, work, Cluster()) == (0, 0, 0, 1)
    assert len(parquet.read_table(tmp_path / "enlarged/_batch/manifest.parquet")) == 0
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(ROOT / "docs" / "batch.md", "python")
    exec(compile(code, "docs/batch.md", "exec"), {})
    assert capsys.readouterr().out == "a.png broken\n"


def test_a_sink_below_the_source_is_not_searched(tmp_path: Path, tiny_model: Path) -> None:
    work, source = work_of(tiny_model), tmp_path / "in"
    (source / "out").mkdir(parents=True)
    for name in ("a.png", "out/a_x4.png"):
        (source / name).write_bytes(b"x")
    sink = Sink.at(str(source / "out"), "folder")
    ledger = Ledger(sink.root)
    ledger.open(describe(sink, work))
    ledger.add([Row("a.png", "done")])
    assert run_job(str(source), sink, work, Cluster()) == (0, 0, 1, 0)
    with pytest.raises(ConfigError, match="is the source too"):
        run_job(f"{source}/", Sink.at(str(source), "folder"), work, Cluster())


def test_tables_between_tasks_keep_what_is_not_there() -> None:
    found = [Found("a", "b", None, None, "why"), Found("c", "d", 2**40, b"x" * 9)]
    assert [Found(**row) for row in table_of(Found, found).to_pylist()] == found
    table = result_table([Result(Row("a", "failed", "why"), None)])
    assert table["data"].to_pylist() == [None]
    assert len(result_table([])) == len(table_of(Found, [])) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["in", "out", "--to", "tape"], 2, "--to tape: choose folder, shards, parquet"),
        (["nowhere", "out"], 2, "no such file or folder"),
        (["in", "out", "--scale", "9"], 2, "scale 9 must lie between"),
        (["in", "out", "--steps", "3,2,1"], 2, "--steps 3,2,1: "),
        (["in", "out", "--gpus", "0.5"], 2, "--gpus 0.5: no GPU here"),
        (["in", "out", "--address", "auto"], 2, "--address auto: say how many --actors"),
        (["clash", "out"], 2, "a_x4.png: would be the result of a.jpg and of a.png"),
        (["in", "out", "--gpus", "0", "--model", "empty"], 1, "empty/"),
        (["in", "out", "--gpus", "0"], 1, 'pip install "patchscaler[cluster]"'),
    ],
)
def test_wrong_calls(
    call: Call, pictures: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, words: str
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("patchscaler.cli.batch.available_devices", lambda: ["cpu"])
    (pictures.parent / "clash").mkdir()
    (pictures.parent / "empty").mkdir()
    for name in ("a.png", "a.jpg"):
        (pictures.parent / "clash" / name).write_bytes(b"x")
    answer = call("batch", *arguments)
    assert answer.code == code
    assert words in answer.err
    assert len(answer.err.splitlines()) == 1


def test_another_job_in_the_same_sink_is_refused(tmp_path: Path, tiny_model: Path, pictures: Path) -> None:
    sink = Sink.at(str(tmp_path / "out"), "folder")
    Ledger(sink.root).open(describe(sink, work_of(tiny_model)))
    other = Work(str(tiny_model), {"scale": 2}, Options(steps=(1, 1, 1)), SAVING)
    with pytest.raises(ConfigError, match="belongs to a job with size"):
        run_job(str(pictures), sink, other, Cluster())


def test_whatever_keeps_ray_from_starting_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", f"/tmp/{'x' * 120}")  # its sockets' names become too long
    with pytest.raises(PatchScalerError, match=r"^Ray did not start \(.*\); close other programs"):
        start_ray(Cluster())


def test_failures_on_record_keep_the_exit_code(call: Call, tmp_path: Path, tiny_model: Path, pictures: Path) -> None:
    """A second run, which has nothing left to do."""
    sink = Sink.at(str(tmp_path / "out"), "folder")
    ledger = Ledger(sink.root)
    size = {"scale": None, "width": None, "height": None, "max_side": None}
    ledger.open(describe(sink, Work(str(tiny_model), size, Options(steps=(1, 1, 1)), SAVING)))
    keys = [found.key for found in found_in(pictures)]
    ledger.add([Row(key, "failed" if key in ("empty.png", "half.png") else "done") for key in keys])
    answer = call("batch", "in", "out", "--model", tiny_model, "--steps", "1,1,1", "--gpus", "0")
    assert answer.code == 1
    left = "2 failed before, and were left alone (--retry-failed)"
    assert answer.out == f"0 enlarged, 6 finished before, 0 failed; {left}\n"
    assert answer.err == "patchscaler: the reasons are in out/_batch/failures.parquet\n"


def first_worker(job: subprocess.Popen[str], sink: Path) -> int:
    """The process that is at work, by the mark it has left."""
    while job.poll() is None:
        for mark in (sink / "_batch" / "trying").glob("part-*"):
            with contextlib.suppress(FileNotFoundError):
                return int(mark.read_text().split()[-1].rpartition(":")[2])
        time.sleep(0.005)
    raise AssertionError("no worker was at work")


@pytest.mark.slow
def test_a_job_with_ray(upscale: Call, tmp_path: Path, tiny_model: Path, pictures: Path) -> None:
    """A cluster of its own, in a process of its own: Ray's many threads shall not outlive the test.

    Its worker is killed at work, and another one does the pictures again.
    """
    answer = upscale("in", "-r", "-o", "single")
    line = [sys.executable, "-m", "patchscaler", "batch", "in", "out", "--model", str(tiny_model), "--steps", "1,1,1"]
    line += ["--gpus", "0", "--actors", "1", "--together", "4", "--store", "128", "--to", "shards", "--part", "3"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, cwd=tmp_path, env=environment, **pipes) as job:
        os.kill(first_worker(job, tmp_path / "out"), signal.SIGKILL)
        said, complained = job.communicate(timeout=240)
    assert job.returncode == 1, complained
    assert said.splitlines()[-1] == "5 enlarged, 0 finished before, 3 failed"
    assert complained.splitlines()[-1] == "patchscaler: the reasons are in out/_batch/failures.parquet"
    folder = tmp_path / "out" / "_batch"
    assert files_in(folder) == ["failures.parquet", "job.json", "manifest.parquet"]
    failures = parquet.read_table(folder / "failures.parquet")["reason"].to_pylist()
    assert {f"patchscaler: in/{reason}" for reason in failures} == set(answer.err.splitlines())

    sink = Sink.at(str(tmp_path / "out"), "shards")
    shards = [place for place in sink.root.files() if place.name.endswith(".tar")]
    assert {place.name for place in shards} == set(parquet.read_table(folder / "manifest.parquet")["shard"].to_pylist())
    results: dict[str, bytes] = {}
    import tarfile

    for place in shards:
        with tarfile.open(fileobj=io.BytesIO(place.read())) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar if member.name.endswith(".png")}
        assert not members.keys() & results.keys()
        results |= members
    same(tmp_path / "single", results)
