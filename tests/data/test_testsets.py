"""Test sets are recognised by what lies in them, and a folder is made small the same way every time."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command_files import Call
from patchscaler.data.degrading import RECORD, degrade_folder
from patchscaler.data.testsets import LAYOUTS, MANIFEST, Layout, check_manifest, recognise
from patchscaler.errors import ConfigError, DataError
from patchscaler.measure.sets import write_inputs


def unpack(layout: Layout, folder: Path) -> Path:
    """A set of one-coloured pictures under the layout's names."""
    for part in layout.parts:
        place = folder / layout.unpacked / part.folder
        place.mkdir(parents=True, exist_ok=True)
        picture = Image.new("1", (part.side or 2,) * 2)
        names = [f"{number:04d}.png" for number in range(part.pictures - len(layout.landmarks))]
        for name in (*layout.landmarks, *(f"x{name}" for name in names)):
            picture.save(place / name)
    return folder / layout.unpacked


@pytest.mark.parametrize("layout", [x for x in LAYOUTS if x.parts[0].pictures < 1000], ids=lambda layout: layout.name)
def test_a_whole_set_is_recognised(layout: Layout, tmp_path: Path) -> None:
    folder = unpack(layout, tmp_path)
    found = recognise(folder)
    assert found.layout is layout
    assert not found.problems
    assert sum(found.counts.values()) == sum(part.pictures for part in layout.parts)
    renamed = folder.rename(tmp_path / "elsewhere")
    assert recognise(renamed).layout is (None if layout.by_name else layout)


def test_what_is_wrong_with_a_set_is_said(tmp_path: Path) -> None:
    folder = unpack(LAYOUTS[0], tmp_path)
    (folder / "test_LR" / "x0003.png").unlink()
    Image.new("1", (100, 100)).save(folder / "test_HR" / "x0004.png")
    assert recognise(folder).problems == [
        "test_HR: 1 pictures are not 512x512: x0004.png",
        "test_LR: 99 pictures, RealSR has 100",
        "1 pictures are in one of the two folders alone: x0003.png",
    ]
    (tmp_path / "own").mkdir()
    Image.new("1", (2, 2)).save(tmp_path / "own" / "a.png")
    assert recognise(tmp_path / "own").layout is None
    with pytest.raises(DataError, match="nowhere: no such folder"):
        recognise(tmp_path / "nowhere")


def test_hashes_are_written_once_and_compared_from_then_on(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("L", (3, 3)).save(tmp_path / f"{name}.png")
    manifest = tmp_path / MANIFEST
    assert check_manifest(tmp_path, manifest) is None
    assert check_manifest(tmp_path, manifest) == []
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "b.png").rename(tmp_path / "c.png")
    assert check_manifest(tmp_path, manifest) == ["b.png: missing", f"c.png: not in {MANIFEST}", "a.png: changed"]
    manifest.write_text("what\n")
    with pytest.raises(DataError, match="not in the format of sha256sum"):
        check_manifest(tmp_path, manifest)
    with pytest.raises(DataError, match="--manifest"):
        check_manifest(tmp_path, tmp_path / "no" / "where")


def test_a_folder_is_made_small_as_evaluate_does_it(training_pictures: Path, tmp_path: Path) -> None:
    assert degrade_folder(training_pictures, tmp_path / "a", "real_esrgan") == 4
    degrade_folder(training_pictures, tmp_path / "again", "real_esrgan")
    degrade_folder(training_pictures, tmp_path / "other", "real_esrgan", seed=1)
    write_inputs(training_pictures, tmp_path / "b", ["real_esrgan"], 0, "", lambda: None)
    for path in sorted((tmp_path / "a" / "lr").iterdir()):
        assert path.read_bytes() == (tmp_path / "again" / "lr" / path.name).read_bytes()
        assert path.read_bytes() == (tmp_path / "b" / "real_esrgan" / "lr" / path.name).read_bytes()
        assert path.read_bytes() != (tmp_path / "other" / "lr" / path.name).read_bytes()
        assert (tmp_path / "a/hr" / path.name).read_bytes() == (tmp_path / "b/hr" / path.name).read_bytes()
    made = json.loads((tmp_path / "other" / RECORD).read_text())
    assert (made["condition"], made["seed"], made["pictures"]) == ("real_esrgan", 1, 4)
    with pytest.raises(ConfigError, match="a: not empty"):
        degrade_folder(training_pictures, tmp_path / "a", "mild")
    with pytest.raises(ConfigError, match='condition "rain"'):
        degrade_folder(training_pictures, tmp_path / "c", "rain")


def test_a_test_set_is_a_choice_of_pictures_cut_to_squares(training_pictures: Path, tmp_path: Path) -> None:
    """As LSDIR-Test is made: the seed chooses, shorter sides are reduced to one length, middles are cut out."""
    for name, seed in (("a", 0), ("again", 0), ("other", 3)):
        assert degrade_folder(training_pictures, tmp_path / name, "resshift", seed, drawn=2, side=80) == 2
    chosen = {
        name: sorted(path.name for path in (tmp_path / name / "hr").iterdir()) for name in ("a", "again", "other")
    }
    assert chosen["a"] == chosen["again"] != chosen["other"]
    for name in chosen["a"]:
        assert (tmp_path / "a/lr" / name).read_bytes() == (tmp_path / "again/lr" / name).read_bytes()
        with Image.open(tmp_path / "a/hr" / name) as hr, Image.open(training_pictures / name) as whole:
            assert hr.size == (80, 80)
            factor = 80 / min(whole.size)
            small = whole.resize((round(whole.width * factor), round(whole.height * factor)), Image.Resampling.BICUBIC)
            left, top = (small.width - 80) // 2, (small.height - 80) // 2
            assert np.array_equal(np.asarray(hr), np.asarray(small.crop((left, top, left + 80, top + 80))))


def test_the_commands(call: Call, training_pictures: Path, tmp_path: Path) -> None:
    listed = call("data", "list").out
    assert all(layout.name in listed and layout.obtained in listed for layout in LAYOUTS)
    assert call("data", "degrade", training_pictures, "-o", "made", "--condition", "mild").code == 0
    first, second = call("data", "check", "made"), call("data", "check", "made")
    assert (first.code, second.code) == (0, 0)
    assert "no test set that is known" in first.out
    assert "hashes written" in first.out
    assert "hashes compared" in second.out
    (tmp_path / "made" / "hr" / "0.png").unlink()
    answer = call("data", "check", "made")
    assert (answer.code, answer.err) == (1, "patchscaler: hr/0.png: missing\n")
