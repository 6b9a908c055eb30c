"""The command line as people meet it: what it writes, what it says when a call is wrong, and its exit codes."""

import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from command_files import Call, files_in, make_picture, make_result, truncated


def bomb() -> bytes:
    """A PNG whose header promises 30,000 x 30,000 pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


BAD_FILES: dict[str, Callable[[Path], object]] = {
    "missing.png": lambda path: None,
    "empty.png": lambda path: path.touch(),
    "truncated.png": lambda path: path.write_bytes(truncated(path)),
    "truncated.jpg": lambda path: path.write_bytes(truncated(path)),
    "text.jpg": lambda path: path.write_text("not a picture"),
    "folder_without_pictures": lambda path: path.mkdir(),
    "bomb.png": lambda path: path.write_bytes(bomb()),
    f"{300 * 'n'}.png": lambda path: None,  # longer than a name may be
}


# What goes in


@pytest.mark.parametrize("name", BAD_FILES, ids=lambda name: name[:20])
def test_bad_input_costs_one_line_and_the_others_are_done(upscale: Call, tmp_path: Path, name: str) -> None:
    BAD_FILES[name](tmp_path / name)
    first, last = make_picture(tmp_path / "a.png"), make_picture(tmp_path / "z.png")
    answer = upscale(first, tmp_path / name, last, "-o", "out")
    assert answer.code == 1
    assert len(answer.err.splitlines()) == 1
    assert answer.err.startswith(f"patchscaler: {tmp_path / name}: ")
    assert "; " in answer.err  # the cure
    assert files_in(tmp_path / "out") == ["a_x4.png", "z_x4.png"]


def test_bad_input_alone(upscale: Call, tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    answer = upscale("empty.png")
    assert (answer.code, answer.out) == (1, "")
    assert files_in(tmp_path) == ["empty.png"]


def test_all_inputs_missing_loads_no_model(call: Call) -> None:
    answer = call("upscale", "nowhere.png", "--model", "no/such/model")
    assert answer.code == 1
    assert answer.err == "patchscaler: nowhere.png: no such file or directory; check the path\n"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read every file")
def test_unreadable_inputs(upscale: Call, tmp_path: Path) -> None:
    for name in ("secret.png", "locked/p.png", "z.png"):
        make_picture(tmp_path / name)
    (tmp_path / "secret.png").chmod(0)
    (tmp_path / "locked").chmod(0)
    answer = upscale("secret.png", "locked", "locked/p.png", "z.png", "-o", "out")
    (tmp_path / "locked").chmod(0o700)
    assert answer.code == 1
    complaints = sorted(line.split(": ")[1] for line in answer.err.splitlines())
    assert complaints == ["locked", "locked/p.png", "secret.png"]
    assert files_in(tmp_path / "out") == ["z_x4.png"]


def test_no_traceback_in_a_process_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from patchscaler.cli.main import main; main()", "upscale", "missing.png"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr == "patchscaler: missing.png: no such file or directory; check the path\n"


# What comes out


@pytest.mark.parametrize(("width", "height"), [(1, 1), (7, 5), (127, 93)])
def test_result_is_beside_the_input_and_four_times_its_size(
    upscale: Call, tmp_path: Path, width: int, height: int
) -> None:
    before = make_picture(tmp_path / "p.png", width, height).read_bytes()
    answer = upscale("p.png")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(f"p.png -> p_x4.png: {width}x{height} -> {4 * width}x{4 * height} in ")
    assert files_in(tmp_path) == ["p.png", "p_x4.png"]
    assert (tmp_path / "p.png").read_bytes() == before
    with Image.open(tmp_path / "p_x4.png") as result:
        assert result.size == (4 * width, 4 * height)


def test_one_seed_one_result(upscale: Call, tmp_path: Path) -> None:
    make_picture(tmp_path / "p.png")
    for name, seed in (("a.png", 3), ("b.png", 3), ("c.png", 4)):
        assert upscale("p.png", "-o", name, "--seed", seed).code == 0
    results = [(tmp_path / name).read_bytes() for name in ("a.png", "b.png", "c.png")]
    assert results[0] == results[1] != results[2]


def test_alpha_survives(upscale: Call, tmp_path: Path) -> None:
    Image.new("RGBA", (6, 5), (200, 100, 50, 77)).save(tmp_path / "p.png")
    assert upscale("p.png").code == 0
    with Image.open(tmp_path / "p_x4.png") as result:
        assert result.getchannel("A").getextrema() == (77, 77)


def test_folders_in_and_out(upscale: Call, tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg"):
        make_picture(tmp_path / "in" / name)
    answer = upscale("in", "-o", "new/out/", "--qmap", "maps", "--report", "reports")
    assert answer.code == 0
    assert files_in(tmp_path / "new") == ["out/a_x4.png", "out/b_x4.png"]
    assert files_in(tmp_path / "maps") == ["a_qmap.png", "b_qmap.png"]
    assert files_in(tmp_path / "reports") == ["a_report.json", "b_report.json"]
    assert answer.out.splitlines()[2:] == ["2 enlarged, 0 skipped, 0 failed"]


def test_report_and_qmap(upscale: Call, tmp_path: Path, tiny_model: Path) -> None:
    make_picture(tmp_path / "p.png", 50, 40)
    assert upscale("p.png", "--qmap", "q.png", "--report", "r.json", "--seed", "5").code == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["input"] == "p.png"
    assert report["output"] == "p_x4.png"
    assert report["model"] == str(tiny_model)
    assert report["seed"] == 5
    assert report["output_size"] == [160, 200]
    assert report["patch_steps"] == sum(report["patches"].values()) > 0
    assert set(report["stages"]) == {"restore", "second", "prompt", "sample", "decode", "colour", "write"}
    with Image.open(tmp_path / "q.png") as qmap:
        assert qmap.width >= 200
        assert qmap.height > 160


def test_two_passes_report_both(upscale: Call, tmp_path: Path) -> None:
    make_picture(tmp_path / "p.png")
    answer = upscale("p.png", "--scale", "5.5", "--report", "r.json", "--qmap", "q.png")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("p.png -> p_x5.5.png: 9x6 -> 50x33 in ")
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["result_size"] == [33, 50]
    assert (report["first_pass"]["input_size"], report["first_pass"]["output_size"]) == ([6, 9], [24, 36])
    assert (report["input_size"], report["output_size"]) == ([9, 13], [36, 52])


def test_file_options(upscale: Call, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    make_picture(tmp_path / "p.png", 40, 30)
    with Image.open(tmp_path / "p.png") as image:
        image.save(tmp_path / "p.jpg", exif=exif.tobytes(), dpi=(300, 300))
    for name, *options in (
        ("good.jpg",),
        ("poor.jpg", "--file-quality", "20"),
        ("bare.jpg", "--no-metadata"),
        ("lossy.webp",),
        ("exact.webp", "--lossless"),
        ("exact.png",),
    ):
        assert upscale("p.jpg", "-o", name, *options).code == 0
    assert (tmp_path / "poor.jpg").stat().st_size < (tmp_path / "good.jpg").stat().st_size / 2
    with Image.open(tmp_path / "good.jpg") as good, Image.open(tmp_path / "bare.jpg") as bare:
        assert (good.getexif()[0x010F], good.info["dpi"]) == ("Maker", (300, 300))
        assert "steps 1,1,1, seed 0" in good.getexif().get_ifd(0x8769)[0x9213]
        assert (dict(bare.getexif()), bare.info["dpi"]) == ({0x000B: "PatchScaler"}, (300, 300))  # the mark alone
    with Image.open(tmp_path / "exact.webp") as webp, Image.open(tmp_path / "exact.png") as png:
        assert webp.convert("RGB").tobytes() == png.tobytes()
    with Image.open(tmp_path / "lossy.webp") as webp, Image.open(tmp_path / "exact.png") as png:
        assert webp.convert("RGB").tobytes() != png.tobytes()


def test_progress_is_for_terminals(upscale: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_picture(tmp_path / "p.png")
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes any stream for a terminal
    answer = upscale("p.png")
    assert answer.code == 0
    assert "%" in answer.err
    assert len(answer.out.splitlines()) == 1


def test_results_of_named_pictures_are_overwritten_unless_told(upscale: Call, tmp_path: Path) -> None:
    make_picture(tmp_path / "p.png")
    earlier = make_result(tmp_path / "p_x4.png").read_bytes()
    said = "0 enlarged, 1 skipped, 0 failed; --existing overwrite does the skipped ones again\n"
    assert upscale("p.png", "--existing", "skip") == (0, said, "")
    assert (tmp_path / "p_x4.png").read_bytes() == earlier
    assert upscale("p.png").code == 0
    with Image.open(tmp_path / "p_x4.png") as result:
        assert result.size == (36, 24)


# Wrong calls: exit code 2, one line, nothing done


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--scale", "9"), "scale 9 must lie between 1 (restore only) and 8"),
        (("--scale", "2", "--width", "30"), "scale 2 and width contradict each other"),
        (("--name", "{stem}_{colour}"), "--name {stem}_{colour}: cannot be filled in ('colour'); use {stem}, {ext}"),
        (("--name", "{stem"), "--name {stem: cannot be filled in"),
        (("--name", "../{stem}"), "--name ../{stem}: makes '../picture"),
        (("--steps", "8,x,20"), "--steps 8,x,20: give three whole numbers"),
        (("--steps", "8,14"), "--steps 8,14: "),
        (("--steps", "20,14,8"), "--steps 20,14,8: "),
        (("--device", "abacus"), "--device abacus: not available here"),
        (("-o", "result.xyz"), "-o result.xyz: end the name with one of .png"),
        (("--qmap", "q"), "--qmap q: end the name with one of .png"),
        (("--report", "r.txt"), "--report r.txt: end the name with one of .json"),
        (("-o", "p.png"), "p.png: is an input and would be overwritten"),
        (("--qmap", "p.png"), "p.png: is an input and would be overwritten"),
        (("--qmap", "p_x4.png"), "p_x4.png: would be written twice"),
    ],
)
def test_wrong_call(call: Call, tmp_path: Path, arguments: tuple[str, ...], reason: str) -> None:
    make_picture(tmp_path / "p.png")
    answer = call("upscale", "p.png", *arguments)
    assert answer.code == 2
    assert answer.err.startswith(f"patchscaler: {reason}")
    assert len(answer.err.splitlines()) == 1
    assert files_in(tmp_path) == ["p.png"]


@pytest.mark.parametrize(
    "arguments", [(), ("p.png", "--sede", "1"), ("p.png", "--seed", "-1"), ("p.png", "--batch-size", "0")]
)
def test_wrong_call_found_by_typer(call: Call, arguments: tuple[str, ...]) -> None:
    answer = call("upscale", *arguments)
    assert answer.code == 2
    assert "Traceback" not in answer.err


def test_two_inputs_for_one_result_are_named(call: Call, tmp_path: Path) -> None:
    for name in ("one/p.png", "two/p.png"):
        make_picture(tmp_path / name)
    answer = call("upscale", "one", "two", "-o", "out/")
    assert answer.code == 2
    assert answer.err.startswith("patchscaler: out/p_x4.png: would be written twice, for one/p.png and for two/p.png; ")
    assert files_in(tmp_path / "out") == []


def test_an_input_named_beside_its_own_earlier_result(call: Call, tmp_path: Path) -> None:
    for name in ("in/p.png", "in/p_x4.png"):
        make_picture(tmp_path / name)
    answer = call("upscale", "in/p.png", "in/p_x4.png")
    assert answer.code == 2
    assert answer.err.startswith("patchscaler: in/p_x4.png: is an input and would be overwritten; ")


def test_several_pictures_need_a_folder(call: Call, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        make_picture(tmp_path / name)
    answer = call("upscale", "a.png", "b.png", "-o", "c.png")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert answer.err.startswith("patchscaler: -o c.png: several pictures need a folder")


# The other commands


def test_version_and_help(call: Call) -> None:
    """That they don't wait for torch is in test_import_order.py."""
    assert call("--version").out.startswith("patchscaler ")
    assert call("--help").code == 0


def test_info(call: Call, tiny_pipeline, tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    record = {"licence": "Apache-2.0", "parts": {"restorer": {"hours": 1.5, "settings": {"seed": 0}}}}
    (tmp_path / "model" / "record.json").write_text(json.dumps(record))
    answer = call("info", "--model", "model")
    assert (answer.code, answer.err) == (0, "")
    for name in ("autoencoder", "restorer", "patch_dit"):
        parameters = sum(tensor.numel() for tensor in getattr(tiny_pipeline, name).state_dict().values())
        assert any(line.split()[:2] == [name, f"{parameters:,}"] for line in answer.out.splitlines())
    assert torch.__version__ in answer.out
    assert "licence: Apache-2.0" in answer.out
    assert "hours: 1.5" in answer.out
    assert "seed" not in answer.out
    assert "none: record.json is missing" in call("info", "--model", tiny_model).out


def test_info_about_no_model(call: Call) -> None:
    answer = call("info", "--model", "nowhere")
    assert (answer.code, answer.err.count("\n")) == (1, 1)
    assert answer.err.startswith("patchscaler: nowhere: ")
