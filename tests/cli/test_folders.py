"""Many pictures in one call: which, where to, what is skipped, and what an interruption or a bad file leaves behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from command_files import Call, files_in, make_picture, make_result
from patchscaler.cli.existing import Existing, settle
from patchscaler.cli.folders import (
    Frames,
    Target,
    Targets,
    find_sources,
    plan_jobs,
)
from patchscaler.cli.naming import DEFAULT_NAME, FileFormat, Naming, Source, size_label
from patchscaler.errors import ConfigError

PLAIN = Naming(DEFAULT_NAME, "x4", "tiny", 0)


def animation(path: Path, frames: int = 3) -> Path:
    pictures = [Image.new("RGB", (6, 4), (80 * number, 50, 90)) for number in range(frames)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:])
    return path


def plan(folder: Path, targets: Targets | None = None, naming: Naming = PLAIN) -> dict[str, str]:
    """{source: result}, below `folder`."""
    sources, complaints, *_ = find_sources([folder], recursive=True, frames=Frames.refuse)
    assert complaints == []
    jobs = plan_jobs(sources, targets or Targets(), naming)
    root = folder.parent
    return {str(job.source.path.relative_to(root)): str(job.result.relative_to(root)) for job in jobs}


# --- which pictures, and where to


def test_subfolders_are_kept(upscale: Call, tmp_path: Path) -> None:
    for name in ("a.png", "deep/b.jpg", "deep/er/c.webp", "deep/notes.txt"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("txt"):
            (tmp_path / "in" / name).touch()
        else:
            make_picture(tmp_path / "in" / name)
    answer = upscale("in", "-r", "-o", "out", "--report", "reports/", "--scale", "1.5", "--format", "same")
    assert (answer.code, answer.err) == (0, "")
    assert files_in(tmp_path / "out") == ["a_x1.5.png", "deep/b_x1.5.jpg", "deep/er/c_x1.5.webp"]
    assert files_in(tmp_path / "reports") == ["a_report.json", "deep/b_report.json", "deep/er/c_report.json"]
    with Image.open(tmp_path / "out/deep/b_x1.5.jpg") as image:
        assert image.size == (14, 9)


def test_without_recursive_subfolders_are_left_out(tmp_path: Path) -> None:
    for name in ("in/a.png", "in/deep.png"):
        make_picture(tmp_path / name)
    make_picture(tmp_path / "in" / "deep" / "b.png")
    sources, *_ = find_sources([tmp_path / "in"], recursive=False, frames=Frames.refuse)
    assert [source.path.name for source in sources] == ["a.png", "deep.png"]


def test_earlier_results_are_no_sources(tmp_path: Path) -> None:
    for name in ("in/p.png", "in/p_x4.png", "in/q_x4.png"):
        make_picture(tmp_path / name)
    assert plan(tmp_path / "in") == {"in/p.png": "in/p_x4.png", "in/q_x4.png": "in/q_x4_x4.png"}


def test_a_folder_for_results_below_the_inputs_is_not_searched(tmp_path: Path) -> None:
    make_picture(tmp_path / "in" / "p.png")
    make_picture(tmp_path / "in" / "out" / "p_x4.png")
    make_picture(tmp_path / "in" / "out" / "old.png")
    targets = Targets(result=Target(tmp_path / "in" / "out", is_folder=True))
    assert plan(tmp_path / "in", targets) == {"in/p.png": "in/out/p_x4.png"}


def test_one_name_for_two_pictures_is_refused_with_a_cure(tmp_path: Path) -> None:
    for name in ("in/p.png", "in/p.jpg"):
        make_picture(tmp_path / name)
    with pytest.raises(ConfigError, match=r"p_x4.png: would be written twice.*--name '\{stem\}_\{ext\}_\{size\}'"):
        plan(tmp_path / "in")
    naming = Naming("{stem}_{ext}_{size}", "x4", "tiny", 0)
    assert set(plan(tmp_path / "in", naming=naming).values()) == {"in/p_png_x4.png", "in/p_jpg_x4.png"}


@pytest.mark.parametrize(
    ("template", "file_format", "name"),
    [
        (DEFAULT_NAME, FileFormat.png, "photo_w640.png"),
        ("{stem}", FileFormat.same, "photo.JPG"),
        ("big {stem} {model} s{seed}", FileFormat.webp, "big photo mine s7.webp"),
        ("{ext}", FileFormat.tif, "JPG.tif"),
    ],
)
def test_names(template: str, file_format: FileFormat, name: str) -> None:
    naming = Naming(template, size_label(None, 640, None, None), "models/mine", 7, file_format)
    source = Source(Path("album/photo.JPG"))
    assert naming.stem(source) + naming.suffix(source) in (name, name.replace("photo.JPG", "photo.jpg"))


def test_size_labels() -> None:
    assert size_label(None, None, None, None) == size_label(4.0, None, None, None) == "x4"
    assert size_label(1.5, None, None, None) == "x1.5"
    assert size_label(None, 1920, 1080, None) == "w1920_h1080"
    assert size_label(None, None, None, 4000) == "max4000"


# --- what exists already


@pytest.mark.parametrize("existing", [None, *Existing])
@pytest.mark.parametrize("named", [True, False])
def test_policies(tmp_path: Path, existing: Existing | None, named: bool) -> None:
    for name in ("in/p.png", "in/q.png"):
        make_picture(tmp_path / name)
    for name in ("p_x4.png", "p_x4_2.png"):
        make_result(tmp_path / "out" / name)
    inputs = [tmp_path / "in" / "p.png", tmp_path / "in" / "q.png"] if named else [tmp_path / "in"]
    sources, *_ = find_sources(inputs, recursive=False, frames=Frames.refuse)
    jobs = plan_jobs(sources, Targets(Target(tmp_path / "out", is_folder=True)), PLAIN)
    if existing is Existing.refuse:
        with pytest.raises(ConfigError, match=r"p_x4.png: exists already; .*--existing"):
            settle(jobs, existing)
        return
    todo, skipped, complaints = settle(jobs, existing)
    assert complaints == []
    skips = existing in (Existing.skip, Existing.update) or (existing is None and not named)
    first = "p_x4_3.png" if existing is Existing.rename else "p_x4.png"
    assert [job.result.name for job in todo] == (["q_x4.png"] if skips else [first, "q_x4.png"])
    assert [job.result.name for job in skipped] == (["p_x4.png"] if skips else [])


def test_the_same_call_goes_on_where_it_stopped(upscale: Call, tmp_path: Path) -> None:
    for name in ("in/a.png", "in/b.png"):
        make_picture(tmp_path / name)
    (tmp_path / "in" / "c.png").write_bytes(b"broken")
    first = upscale("in", "-o", "out/")
    assert first.code == 1
    assert first.out.splitlines()[-1] == "2 enlarged, 0 skipped, 1 failed"
    before = (tmp_path / "out" / "a_x4.png").stat().st_mtime_ns
    (tmp_path / "out" / "b_x4.png").unlink()
    make_picture(tmp_path / "in" / "c.png")
    second = upscale("in", "-o", "out/")
    assert second.code == 0
    assert second.out.splitlines()[-1].startswith("2 enlarged, 1 skipped, 0 failed; --existing overwrite")
    assert (tmp_path / "out" / "a_x4.png").stat().st_mtime_ns == before
    assert files_in(tmp_path / "out") == ["a_x4.png", "b_x4.png", "c_x4.png"]


# --- frames


def test_frames(upscale: Call, tmp_path: Path) -> None:
    animation(tmp_path / "a.gif")
    answer = upscale("a.gif")
    assert answer.code == 1
    assert answer.err == "patchscaler: a.gif: has 3 frames; take the first or each of them (--frames)\n"
    assert upscale("a.gif", "--frames", "first", "-o", "first.png").code == 0
    assert upscale("a.gif", "--frames", "each", "-o", "all/").code == 0
    assert files_in(tmp_path / "all") == ["a_x4_0001.png", "a_x4_0002.png", "a_x4_0003.png"]
    with Image.open(tmp_path / "first.png") as alone, Image.open(tmp_path / "all/a_x4_0001.png") as among:
        assert alone.tobytes() == among.tobytes()
    with Image.open(tmp_path / "all/a_x4_0003.png") as last:
        assert last.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))[0] > 120  # its own red, not the first one's


def test_pages_of_a_tiff_without_its_reduced_copies(tmp_path: Path) -> None:
    pages = [Image.new("L", (8, 6), 10), Image.new("L", (4, 3), 20), Image.new("L", (8, 6), 30)]
    infos = [{}, {254: 1}, {}]
    for page, tags in zip(pages, infos, strict=True):
        page.encoderinfo = {"tiffinfo": tags}
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    sources, *_ = find_sources([tmp_path / "a.tif"], recursive=False, frames=Frames.each)
    assert [source.frame for source in sources] == [0, 2]


# --- nothing but words


def test_dry_run_says_all_and_does_nothing(call: Call, tmp_path: Path) -> None:
    make_picture(tmp_path / "in" / "a.png", width=30, height=20)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (9, 6)).save(tmp_path / "in" / "b.jpg", exif=exif.tobytes())
    (tmp_path / "in" / "c.png").write_bytes(b"broken")
    make_picture(tmp_path / "in" / "d.png", width=100, height=20)
    before = files_in(tmp_path)
    answer = call("upscale", "in", "-o", "out", "--max-side", "50", "--dry-run", "--model", "no/such/model")
    assert answer.code == 1
    assert answer.out.splitlines() == [
        "in/a.png -> out/a_max50.png: 30x20 -> 50x33",
        "in/b.jpg -> out/b_max50.png: 6x9 -> 33x50",
    ]
    broken, large = answer.err.splitlines()
    assert broken.startswith("patchscaler: in/c.png: not a picture")
    assert large.startswith("patchscaler: in/d.png: max_side 50 of a picture of 100x20 means x0.5")
    assert files_in(tmp_path) == before
    assert not (tmp_path / "out").exists()


def test_a_format_too_small_is_found_out_before_the_work(call: Call, tmp_path: Path, tiny_model: Path) -> None:
    make_picture(tmp_path / "p.png", width=5000, height=1)
    for more in (["--dry-run"], ["--model", tiny_model, "--device", "cpu"]):
        answer = call("upscale", "p.png", "-o", "p.webp", *more)
        assert answer.code == 1
        assert "p.webp: 20000x4 is too large for WEBP, whose sides end at 16383; use PNG instead" in answer.err


def test_losses_are_named(upscale: Call, tmp_path: Path) -> None:
    Image.new("CMYK", (5, 5), (90, 10, 10, 0)).save(tmp_path / "c.tif")
    Image.new("RGBA", (5, 5), (90, 10, 10, 100)).save(tmp_path / "a.png")
    Image.new("I;16", (5, 5), 3000).save(tmp_path / "d.png")
    assert upscale("c.tif").out.rstrip().endswith("; CMYK became RGB")
    assert upscale("a.png", "-o", "a.jpg").out.rstrip().endswith("; clear parts became white")
    assert upscale("d.png", "-o", "d.jpg").out.rstrip().endswith("; 16 bits became 8")
    assert ";" not in upscale("d.png", "-o", "d.tif").out


# --- interrupted


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_leaves_whole_files_only(tmp_path: Path, tiny_model: Path) -> None:
    for number in range(60):
        make_picture(tmp_path / "in" / f"{number:02d}.png", 40, 30)
    # Where the tests run in the background, signals may be ignored from birth; what is meant here is a terminal.
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program += "; from patchscaler.cli.main import main; main()"
    command = [sys.executable, "-c", program, "upscale", "in", "-o", "out"]
    more = ["--model", str(tiny_model), "--device", "cpu", "--steps", "1,1,1"]
    running = subprocess.Popen([*command, *more], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob("*.png")) and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert err.decode() == "patchscaler: interrupted; finished pictures are kept\n"
    results = files_in(tmp_path / "out")
    assert 1 <= len(results) < 60
    assert len(results) - len(out.splitlines()) in (0, 1)  # it may come between a result and the line about it
    for name in results:  # no half files, nothing hidden
        assert name.endswith("_x4.png")
        with Image.open(tmp_path / "out" / name) as image:
            image.load()
            assert image.size == (160, 120)
