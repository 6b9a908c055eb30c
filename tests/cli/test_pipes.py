"""Standard streams: a reader that leaves ends the talking only, and pictures come and go through pipes."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from command_files import Answer, Call, files_in, make_picture, make_result
from patchscaler.cli.enlarge import most_patches, place_of
from patchscaler.cli.folders import Job
from patchscaler.cli.naming import Source
from patchscaler.cli.streams import Talk
from patchscaler.engines.load import load_engine
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.tiles import patches_of

PROGRAM = [sys.executable, "-c", "from patchscaler.cli.main import main; main()", "upscale"]


class Gone(io.StringIO):
    """Where nobody reads."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_talk_goes_on_to_nobody() -> None:
    talk = Talk(Gone())
    assert talk.write("a word") == 6
    talk.flush()
    whole = io.StringIO()
    Talk(whole).write("a word")
    assert whole.getvalue() == "a word"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux")
def test_results_count_where_nobody_listens(tmp_path: Path, tiny_model: Path) -> None:
    for name in ("a.png", "b.png"):
        make_picture(tmp_path / name)
    line = [*PROGRAM, "a.png", "b.png", "-o", "out/", "--model", str(tiny_model), "--device", "cpu", "--steps", "0,0,0"]
    with open("/dev/full", "w") as full:
        answer = subprocess.run(line, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert files_in(tmp_path / "out") == ["a_x4.png", "b_x4.png"]


@pytest.fixture
def pipe(upscale: Call, monkeypatch: pytest.MonkeyPatch):
    """`upscale` with bytes as standard input; its answer, and the bytes of standard output."""

    def run(sent: bytes, *arguments: object) -> tuple[Answer, bytes]:
        received = io.BytesIO()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(sent)))
        monkeypatch.setattr("patchscaler.cli.streams.binary_stdout", lambda: received)
        return upscale(*arguments), received.getvalue()

    return run


def test_a_picture_through_pipes(pipe, tmp_path: Path) -> None:
    sent = make_picture(tmp_path / "p.png").read_bytes()
    answer, received = pipe(sent, "-", "--format", "webp")
    assert (answer.code, answer.out) == (0, "")
    assert answer.err.startswith("standard input -> standard output: 9x6 -> 36x24 in ")
    with Image.open(io.BytesIO(received)) as image:
        assert (image.format, image.size) == ("WEBP", (36, 24))
    answer, received = pipe(sent, "-", "-o", "r.png")
    assert (answer.code, received) == (0, b"")
    assert answer.out.startswith("standard input -> r.png: ")
    answer, received = pipe(b"", "p.png", "-o", "-")
    assert received.startswith(b"\x89PNG")
    assert files_in(tmp_path) == ["p.png", "r.png"]


def test_what_is_wrong_with_a_pipe(pipe, tmp_path: Path) -> None:
    answer, received = pipe(b"no picture", "-")
    assert (answer.code, received) == (1, b"")
    assert answer.err.startswith("patchscaler: standard input: not a picture")
    make_picture(tmp_path / "p.png")
    for arguments in (("-", "p.png"), ("p.png", "q.png", "-o", "-"), (".", "-o", "-")):
        answer, _ = pipe(b"", *arguments)
        assert answer.code == 2
        assert answer.err.startswith("patchscaler: - is one picture")


# --- other calls that are found out early


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("-o", "r.png", "--format", "jpg"), "--format jpg and -o r.png contradict each other"),
        (("-o", "r.jpg", "--lossless"), "--lossless: JPEG is never written so"),
        (("--format", "avif", "--lossless"), "--lossless: AVIF is never"),
        (("--format", "jpg", "--lossless"), "--lossless: JPEG is never written so"),
    ],
)
def test_formats_that_contradict_the_name(call: Call, tmp_path: Path, arguments: tuple[str, ...], reason: str) -> None:
    make_picture(tmp_path / "p.png")
    answer = call("upscale", "p.png", *arguments)
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert answer.err.startswith(f"patchscaler: {reason}")


def test_a_name_too_long_is_found_before_the_work(upscale: Call, tmp_path: Path) -> None:
    make_picture(tmp_path / f"{'n' * 250}.png")
    for more in ((), ("--dry-run",)):
        answer = upscale(f"{'n' * 250}.png", *more)
        assert answer.code == 1
        assert "its name has 257 bytes, 255 are possible; choose a shorter -o or --name" in answer.err


def test_update_does_again_what_has_changed(upscale: Call, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        make_picture(tmp_path / "in" / name)
        result = make_result(tmp_path / "out" / name.replace(".", "_x4."))
        os.utime(result, (1000, 1000))
        os.utime(tmp_path / "in" / name, (900, 900) if name == "a.png" else (1100, 1100))
    make_picture(tmp_path / "in" / "c.png")
    answer = upscale("in", "-o", "out", "--existing", "update")
    assert answer.out.splitlines()[-1].startswith("2 enlarged, 1 skipped, 0 failed")
    assert (tmp_path / "out" / "a_x4.png").stat().st_mtime == 1000
    assert (tmp_path / "out" / "b_x4.png").stat().st_mtime > 1100


def test_frames_are_called_as_their_files(upscale: Call, tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (6, 4), (80 * number, 50, 90)) for number in range(2)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:])
    lines = upscale("a.gif", "--frames", "each", "-o", "all/").out.splitlines()
    assert lines[1].startswith("a.gif (frame 2) -> all/a_x4_0002.png: ")


def test_a_folder_says_how_far_it_is() -> None:
    assert place_of(0, 1, 0.0) == ""
    assert place_of(0, 3, 0.0) == "1/3: "
    assert place_of(2, 12, 20.0) == "3/12, about 2 min left: "
    assert place_of(2, 4, 20.0) == "3/4, about 20 s left: "


def test_a_list_of_what_failed(upscale: Call, tmp_path: Path) -> None:
    make_picture(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_text("no picture")
    answer = upscale("in", "nowhere.png", "-o", "out/", "--failures", "failed.txt")
    assert answer.code == 1
    lines = (tmp_path / "failed.txt").read_text().splitlines()
    assert lines == [line.removeprefix("patchscaler: ") for line in answer.err.splitlines()]
    assert [line.split(":")[0] for line in lines] == ["nowhere.png", "in/b.png"]
    assert upscale("in/a.png", "-o", "out/", "--failures", "failed.txt").code == 0
    assert (tmp_path / "failed.txt").read_bytes() == b""


def test_no_more_workers_than_there_is_work(tiny_model: Path, tmp_path: Path) -> None:
    model = load_engine(tiny_model, device="cpu").model
    jobs = [Job(Source(make_picture(tmp_path / f"{w}.png", w, 6)), Path("r.png"), None, None) for w in (9, 60)]
    few, many = (patches_of(Size(6, width), model.patch, model.overlap) for width in (9, 60))
    assert few < many
    assert most_patches(model, jobs[:1], {"scale": None}, 99) == few
    assert most_patches(model, jobs, {"scale": None}, 99) == many
    assert most_patches(model, jobs, {"scale": 8}, 99) > many
    assert most_patches(model, jobs[:1], {"width": 3}, 99) == 1  # a wish that can't be met is said later
