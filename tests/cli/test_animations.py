"""Animations come out as animations, with their timing, whatever kind goes in and comes out."""

from pathlib import Path

import pytest
from PIL import Image

from command_files import Call
from patchscaler.imaging.searching import is_result

TIMES, LOOP = [40, 80, 120, 200], 3
KINDS = {".gif": "GIF", ".png": "PNG", ".webp": "WEBP"}


def animation(path: Path, mode: str = "RGB") -> Path:
    """Four frames, each of another colour, with a clear corner where there is alpha."""
    frames = [Image.new(mode, (8, 6), (60 * number, 200 - 40 * number, 90, 255)[: len(mode)]) for number in range(4)]
    if mode == "RGBA":
        for frame in frames:
            frame.paste((0, 0, 0, 0), (0, 0, 4, 3))
    more = {"disposal": 2} if path.suffix == ".gif" else {"lossless": True} if path.suffix == ".webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=TIMES, loop=LOOP, **more)
    return path


def frames_of(path: Path) -> tuple[list[Image.Image], list[int], int]:
    with Image.open(path) as image:
        frames, times = [], []
        for number in range(image.n_frames):
            image.seek(number)
            frames.append(image.convert("RGBA"))
            times.append(round(image.info["duration"]))
        return frames, times, image.info["loop"]


@pytest.mark.parametrize("before", KINDS)
@pytest.mark.parametrize("after", KINDS)
def test_timing_and_colours_of_every_kind_to_every_kind(upscale: Call, tmp_path: Path, before: str, after: str) -> None:
    animation(tmp_path / f"a{before}")
    answer = upscale(f"a{before}", "--frames", "all", "-o", f"b{after}", "--lossless", "--scale", "2")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(f"a{before} -> b{after}: 4 frames, 8x6 -> 16x12 in ")
    frames, times, loop = frames_of(tmp_path / f"b{after}")
    assert (times, loop) == (TIMES, LOOP)
    for number, frame in enumerate(frames):
        assert frame.size == (16, 12)
        # Random networks draw what they like, but the mean colour tells the frames apart: 60 lie between two.
        found, expected = (
            frame.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0)),
            (60 * number, 200 - 40 * number, 90, 255),
        )
        assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= 25
    assert is_result(tmp_path / f"b{after}")


def test_an_animation_stays_what_it_is(upscale: Call, tmp_path: Path) -> None:
    """In a folder, beside a still picture; the second call finds its own results."""
    (tmp_path / "in").mkdir()
    animation(tmp_path / "in" / "a.gif", "RGBA")
    Image.new("RGB", (4, 4)).save(tmp_path / "in" / "b.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "in" / "c.tif", save_all=True, append_images=[Image.new("RGB", (4, 4))])
    answer = upscale("in", "--frames", "all", "-o", "out/")
    assert answer.err == "patchscaler: in/c.tif: has 2 pages; take the first or each of them (--frames)\n"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a_x4.gif", "b_x4.png"]
    frames, times, _ = frames_of(tmp_path / "out" / "a_x4.gif")
    assert times == TIMES
    assert [frame.getpixel((2, 2))[3] for frame in frames] == [0] * 4
    assert [frame.getpixel((30, 20))[3] for frame in frames] == [255] * 4
    assert upscale("in", "--frames", "all", "-o", "out/").out.splitlines()[-1].startswith("0 enlarged, 2 skipped")


def test_a_still_that_an_apng_begins_with_is_no_frame(upscale: Call, tmp_path: Path) -> None:
    still, *frames = (Image.new("RGB", (8, 6), (50 * number, 90, 90)) for number in range(4))
    still.save(tmp_path / "a.png", save_all=True, append_images=frames, duration=50, default_image=True)
    assert upscale("a.png", "--frames", "all").out.startswith("a.png -> a_x4.png: 3 frames")
    assert upscale("a.png", "--frames", "all", "--dry-run").code == 0
    answer = upscale("a.png", "--frames", "all", "-o", "b.jpg")
    assert answer.code == 1
    assert answer.err == "patchscaler: b.jpg: holds no animation; use one of .gif, .png, .apng, .webp\n"
