"""Whose a file is: only our own results are replaced, taken for done, or left out of a folder."""

import json
from pathlib import Path

import pytest
from PIL import Image

from arrays import uniform
from command_files import Call, files_in, make_picture, make_result
from patchscaler.imaging.files import Picture, read_picture, write_picture
from patchscaler.imaging.searching import is_result
from patchscaler.imaging.sources import picture_from


@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", ".avif"])
@pytest.mark.parametrize("bits", [8, 16])
def test_results_bear_a_mark_and_other_files_do_not(tmp_path, suffix, metadata, bits):
    like = Picture(uniform(1, 3, 5, 7), bits=bits, dpi=(300.0, 300.0))
    path = tmp_path / f"out{suffix}"
    write_picture(path, like.pixels, like=like, metadata=metadata, history="done")
    assert is_result(path)
    write_picture(path, like.pixels, like=like, metadata=metadata)
    assert not is_result(path)
    path.write_bytes(b"\x89PNG\r\n\x1a\nPatchScaler")
    assert not is_result(path)


def test_the_mark_stays_where_the_rest_of_the_exif_is_too_long(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "y" * 70_000
    like = Picture(uniform(1, 3, 5, 7), exif=exif.tobytes())
    write_picture(tmp_path / "out.jpg", like.pixels, like=like, history="done")
    assert is_result(tmp_path / "out.jpg")


def test_a_large_result_is_known_whatever_pillows_limit(tmp_path, monkeypatch):
    path = make_result(tmp_path / "out.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert is_result(path)


@pytest.mark.parametrize("existing", [(), ("--existing", "skip"), ("--existing", "overwrite")])
@pytest.mark.parametrize("named", [True, False])
def test_a_file_that_is_not_ours_stays(upscale: Call, tmp_path: Path, existing: tuple[str, ...], named: bool) -> None:
    for name in ("in/icon.png", "in/photo.png"):
        make_picture(tmp_path / name)
    foreign = make_picture(tmp_path / "out" / "icon_x4.png", 5, 5).read_bytes()
    inputs = ["in/icon.png", "in/photo.png"] if named else ["in"]
    for _ in range(2):
        answer = upscale(*inputs, "-o", "out", *existing)
        assert answer.code == 1
        line = "patchscaler: out/icon_x4.png: exists and is no result of PatchScaler; move it away, or choose another"
        assert answer.err.startswith(line)
        assert (tmp_path / "out" / "icon_x4.png").read_bytes() == foreign
        assert files_in(tmp_path / "out") == ["icon_x4.png", "photo_x4.png"]  # the other one is done
    assert upscale(*inputs, "-o", "out", "--existing", "rename").code == 0
    assert (tmp_path / "out" / "icon_x4.png").read_bytes() == foreign
    assert "icon_x4_2.png" in files_in(tmp_path / "out")


@pytest.mark.parametrize(("option", "name"), [("--qmap", "p_qmap.png"), ("--report", "p_report.json")])
def test_nor_are_other_maps_and_reports_replaced(upscale: Call, tmp_path: Path, option: str, name: str) -> None:
    make_picture(tmp_path / "in" / "p.png")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / name).write_text(json.dumps({"input": "somebody's"}))
    answer = upscale("in", "-o", "out", option, "more")
    assert (answer.code, answer.err.count("\n")) == (1, 1)
    assert answer.err.startswith(f"patchscaler: more/{name}: exists and is no result of PatchScaler")
    (tmp_path / "more" / name).unlink()
    for _ in range(2):  # our own one is
        assert upscale("in", "-o", "out", option, "more", "--existing", "overwrite").code == 0


def test_a_name_that_the_user_gives_is_the_users_word(upscale: Call, tmp_path: Path) -> None:
    make_picture(tmp_path / "p.png")
    make_picture(tmp_path / "large.png")
    assert upscale("p.png", "-o", "large.png").code == 0
    assert is_result(tmp_path / "large.png")


def test_results_and_maps_are_no_inputs_of_a_folder(upscale: Call, tmp_path: Path) -> None:
    make_picture(tmp_path / "in" / "a.png")
    for scale in ("2", "3", "2"):
        assert upscale("in", "--scale", scale, "--qmap", "in").code == 0
    assert files_in(tmp_path / "in") == ["a.png", "a_qmap.png", "a_x2.png", "a_x3.png"]
    answer = upscale("in", "--scale", "2", "-o", "out")
    assert answer.out.splitlines()[-1] == (
        "1 enlarged, 0 skipped, 0 failed; 3 earlier results left out; name one to enlarge it again"
    )
    assert upscale("in/a_x2.png", "-o", "again.png").code == 0  # by its name it is


def test_other_files_of_a_folder_are_counted(upscale: Call, tmp_path: Path) -> None:
    make_picture(tmp_path / "in" / "a.png")
    for name in ("b.nef", "c.txt", "d.TXT", ".hidden"):
        (tmp_path / "in" / name).touch()
    words = "3 other files left out (.nef, .txt)\n"
    assert upscale("in", "-o", "out").out.endswith(f"1 enlarged, 0 skipped, 0 failed; {words}")
    assert upscale("in", "-o", "other", "--dry-run").out.endswith(f"\n{words}")


def test_a_marked_picture_is_read_as_any_other(tmp_path):
    path = make_result(tmp_path / "out.png")
    assert read_picture(path).size == (6, 9)
    assert picture_from(str(path)).size == (6, 9)


@pytest.mark.parametrize(
    "arguments",
    [
        ("upscale", ""),
        ("upscale", "p.png", "-o", ""),
        ("upscale", "p.png", "--output="),
        ("upscale", "p.png", "--qmap", ""),
        ("batch", "", "out"),
        ("batch", "in", ""),
        ("evaluate", "--out", ""),
    ],
)
def test_an_empty_name_is_refused(call: Call, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    make_picture(tmp_path / "p.png")
    answer = call(*arguments)
    assert answer.code == 2
    assert (
        answer.err
        == "patchscaler: an argument is empty; an unset variable in the command? Give a name or leave it out\n"
    )
    assert files_in(tmp_path) == ["p.png"]
