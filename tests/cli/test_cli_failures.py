"""The command line when something fails on the way: places, disks, interruptions, memory, weights."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from command_files import Call, files_in, make_picture

# Places that cannot be written


def test_output_in_a_missing_folder(upscale: Call, tmp_path: Path) -> None:
    make_picture(tmp_path / "p.png")
    answer = upscale("p.png", "-o", "nowhere/r.png")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.startswith("patchscaler: nowhere/r.png: the folder nowhere does not exist; create it first")
    assert files_in(tmp_path) == ["p.png"]


def test_output_folder_is_a_file(upscale: Call, tmp_path: Path) -> None:
    make_picture(tmp_path / "p.png")
    (tmp_path / "file").write_text("precious")
    answer = upscale("p.png", "-o", "file/")
    assert (answer.code, answer.err.count("\n")) == (1, 1)
    assert answer.err.startswith("patchscaler: file: cannot be made a folder")
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_unwritable_folder_costs_its_own_picture_only(upscale: Call, tmp_path: Path) -> None:
    locked, free = make_picture(tmp_path / "locked" / "p.png"), make_picture(tmp_path / "free" / "p.png")
    locked.parent.chmod(0o500)
    answer = upscale(locked, free)
    locked.parent.chmod(0o700)
    assert answer.code == 1
    assert answer.err.startswith(f"patchscaler: {locked.parent / 'p_x4.png'}: cannot be written there; ")
    assert files_in(tmp_path) == ["free/p.png", "free/p_x4.png", "locked/p.png"]


def test_full_disk(upscale: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full for the first picture, and has room again for the second."""
    for name in ("a.png", "b.png"):
        make_picture(tmp_path / name)
    save, calls = Image.Image.save, []

    def full_once(image: Image.Image, file, *arguments, **options) -> None:
        calls.append(file)
        if len(calls) > 1:
            return save(image, file, *arguments, **options)
        file.write(b"the first bytes")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full_once)
    answer = upscale("a.png", "b.png")
    assert answer.code == 1
    assert answer.err == "patchscaler: a_x4.png: the disk is full; free some space or choose another folder\n"
    assert files_in(tmp_path) == ["a.png", "b.png", "b_x4.png"]


def test_full_disk_for_the_report(upscale: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_picture(tmp_path / "p.png")

    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if target.suffix == ".json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    answer = upscale("p.png", "--report", "r.json")
    assert (answer.code, answer.err.count("\n")) == (1, 1)
    assert answer.err.startswith("patchscaler: r.json: cannot be written (No space left on device); ")
    assert files_in(tmp_path) == ["p.png", "p_x4.png"]


# Interruptions and weights


def test_interrupt_leaves_no_half_written_result(
    upscale: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_picture(tmp_path / "p.png")

    def interrupt(*paths: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    answer = upscale("p.png", "--report", "r.json")
    assert (answer.code, answer.out) == (130, "")
    assert answer.err == "patchscaler: interrupted; finished pictures are kept\n"
    assert files_in(tmp_path) == ["p.png"]


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")]
)
def test_out_of_memory(upscale: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    make_picture(tmp_path / "p.png")

    def exhausted(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("patchscaler.stages.render.decode_tiled", exhausted)
    answer = upscale("p.png")
    assert (answer.code, answer.err.count("\n")) == (1, 1)
    assert answer.err.startswith("patchscaler: p.png: not enough memory; ")
    assert files_in(tmp_path) == ["p.png"]


def test_weights_with_an_unknown_key(call: Call, tmp_path: Path, tiny_model: Path) -> None:
    make_picture(tmp_path / "p.png")
    shutil.copytree(tiny_model, tmp_path / "model")
    config = tmp_path / "model" / "patch_dit" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"colour_of_the_sky": "blue"}))
    answer = call("upscale", "p.png", "--model", "model")
    assert (answer.code, answer.err.count("\n")) == (1, 1)
    assert "model/patch_dit/config.json" in answer.err
    assert "colour_of_the_sky" in answer.err


def test_weights_of_wrong_shape(call: Call, tmp_path: Path, tiny_model: Path) -> None:
    make_picture(tmp_path / "p.png")
    shutil.copytree(tiny_model, tmp_path / "model")
    config = tmp_path / "model" / "texture_memory" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"size": 21}))
    answer = call("upscale", "p.png", "--model", "model")
    assert (answer.code, answer.err.count("\n")) == (1, 1)
    assert "model/texture_memory/" in answer.err


def test_no_such_model(call: Call, tmp_path: Path) -> None:
    make_picture(tmp_path / "p.png")
    answer = call("upscale", "p.png", "--model", "./nowhere")
    assert (answer.code, answer.err.count("\n")) == (1, 1)
    assert answer.err.startswith("patchscaler: ./nowhere: ")


def test_a_hub_that_cannot_be_reached(call: Call, tmp_path: Path) -> None:
    make_picture(tmp_path / "p.png")
    answer = call("upscale", "p.png", "--model", "someone/nothing")
    assert (answer.code, answer.err.count("\n")) == (1, 1)
    assert answer.err.startswith("patchscaler: someone/nothing: no folder here, and the hub can't be reached; check")
