"""Training data: every crop and pair is a function of (seed, index), whatever folder it comes from."""

import csv
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from patchscaler.data.degradation import DegradationConfig, degrade_at
from patchscaler.data.pairs import PairDataset, PairSettings, validation_pairs
from patchscaler.data.pictures import PicturePool, PictureSet, is_decoded
from patchscaler.errors import ConfigError, DataError

law = settings(deadline=None, max_examples=20)

BICUBIC = PairSettings(crop=32, mixture={"bicubic": 1.0})


def save(path: Path, height: int, width: int, value: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([np.full_like(x, value), (x * 7 + y * 3) % 256, (y * 5) % 256], axis=2)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


@law
@given(st.integers(0, 2**40), st.lists(st.integers(0, 2**40), max_size=4), st.integers(0, 3))
def test_a_crop_is_a_function_of_seed_and_index(pictures: PictureSet, index: int, before: list[int], seed: int) -> None:
    fresh, used = PicturePool(pictures), PicturePool(pictures)
    for other in before:
        used.crop(seed, other, 24)
    crop = used.crop(seed, index, 24)
    assert crop.shape == (3, 24, 24)
    assert crop.dtype == torch.uint8
    assert torch.equal(crop, fresh.crop(seed, index, 24))


def test_indices_and_seeds_give_different_crops(pictures: PictureSet) -> None:
    pool = PicturePool(pictures)
    crops = {pool.crop(seed, index, 80).numpy().tobytes() for seed in range(2) for index in range(20)}
    assert len(crops) == 40


def test_a_crop_lies_in_a_picture_in_one_of_eight_orientations(tmp_path: Path) -> None:
    """Red is the column and green the row, so a crop says where it was cut and how it was turned."""
    y, x = np.mgrid[0:40, 0:50]
    (tmp_path / "in").mkdir()
    Image.fromarray(np.stack([x, y, np.full_like(x, 7)], axis=2).astype(np.uint8)).save(tmp_path / "in" / "0.png")
    pool = PicturePool(PictureSet(str(tmp_path / "in"), str(tmp_path / "cache"), 16))
    orientations, corners = set(), set()
    for index in range(400):
        red, green, blue = pool.crop(0, index, 9).int()
        corners.add((int(green.min()), int(red.min())))
        assert (blue == 7).all()
        steps = [{*x.diff(dim=d).flatten().tolist()} for x in (red, green) for d in (0, 1)]
        assert all(len(step) == 1 for step in steps)
        orientations.add(tuple(min(step) for step in steps))
    assert orientations == {(0, a, b, 0) for a in (1, -1) for b in (1, -1)} | {
        (a, 0, 0, b) for a in (1, -1) for b in (1, -1)
    }
    rows, cols = zip(*corners, strict=True)
    assert (min(rows), max(rows), min(cols), max(cols)) == (0, 40 - 9, 0, 50 - 9)


def test_more_draws_find_more_contrast(pictures: PictureSet) -> None:
    pool = PicturePool(pictures)

    def contrast(draws: int) -> float:
        crops = torch.stack([pool.crop(0, index, 16, draws) for index in range(200)])[:, 1].float()
        return float(crops.diff(dim=1).abs().mean() + crops.diff(dim=2).abs().mean())

    assert contrast(1) < contrast(2) < contrast(8)


def test_pictures_are_decoded_once_and_again_when_the_files_change(tmp_path: Path) -> None:
    pictures = PictureSet(str(tmp_path / "in"), cache=str(tmp_path / "cache"), min_side=16)
    save(tmp_path / "in" / "a.png", 20, 30)
    save(tmp_path / "in" / "deep" / "b.PNG", 40, 20)
    assert not is_decoded(pictures)
    pool = PicturePool(pictures)
    sizes = [(row["file"], row["height"], row["width"]) for row in pool.table]
    assert sizes == [("a.png", 20, 30), ("deep/b.PNG", 40, 20)]
    assert is_decoded(pictures)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    again = PicturePool(pictures)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == before
    assert pool.identity == again.identity
    for number, row in enumerate(pool.table):
        with Image.open(tmp_path / "in" / row["file"]) as picture:
            assert np.array_equal(np.asarray(picture), again.picture(number))

    save(tmp_path / "in" / "a.png", 50, 60)
    assert not is_decoded(pictures)
    changed = PicturePool(pictures)
    assert changed.picture(0).shape == (50, 60, 3)
    assert changed.identity != pool.identity

    (tmp_path / "in" / "a.png").unlink()
    assert len(PicturePool(pictures)) == 1

    for path in (tmp_path / "cache").glob("*.u8"):
        path.unlink()
    assert PicturePool(pictures).picture(0).shape == (40, 20, 3)


def test_grey_palette_and_alpha_pictures_become_rgb(tmp_path: Path) -> None:
    for mode in ("L", "P", "RGBA", "LA", "1"):
        save(tmp_path / "in" / "x.png", 20, 20)
        with Image.open(tmp_path / "in" / "x.png") as picture:
            picture.convert(mode).save(tmp_path / "in" / f"{mode}.png")
    pool = PicturePool(PictureSet(str(tmp_path / "in"), cache=str(tmp_path / "cache"), min_side=16))
    assert all(pool.picture(number).shape == (20, 20, 3) for number in range(6))


def test_small_pictures_are_left_out(tmp_path: Path) -> None:
    save(tmp_path / "in" / "large.png", 40, 50)
    save(tmp_path / "in" / "low.png", 31, 80)
    save(tmp_path / "in" / "narrow.png", 80, 31)
    pictures = PictureSet(str(tmp_path / "in"), cache=str(tmp_path / "cache"), min_side=32)
    assert [row["file"] for row in PicturePool(pictures).table] == ["large.png"]
    with pytest.raises(DataError, match="in: no picture has both sides of at least min_side = 64 pixels"):
        PicturePool(dataclasses.replace(pictures, min_side=64))
    pool = PicturePool(dataclasses.replace(pictures, min_side=16))
    with pytest.raises(ConfigError, match=r"crop 48 doesn't fit low\.png \(31x80\); set pictures\.min_side to 48"):
        pool.check_crop(48)
    with pytest.raises(ConfigError, match="crop 32 doesn't fit"):
        PairDataset(dataclasses.replace(pictures, min_side=16), BICUBIC, 0)


def test_unusable_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no picture")
    for name in ("empty", "missing"):
        with pytest.raises(DataError, match=f"{name}: no pictures in this folder"):
            PicturePool(PictureSet(str(tmp_path / name), cache=str(tmp_path / "cache")))


@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize("damage", ["text", "truncated", "empty"])
def test_an_unreadable_picture_is_named_and_left_out(
    damage: str, decode: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = PictureSet(str(tmp_path / "in"), cache=str(tmp_path / "cache"), min_side=16, decode=decode)
    save(tmp_path / "in" / "a.png", 40, 50)
    whole = (tmp_path / "in" / "a.png").read_bytes()
    bad = tmp_path / "in" / "bad.png"
    bad.write_bytes({"text": b"no picture", "truncated": whole[: len(whole) // 2], "empty": b""}[damage])
    pool = PicturePool(pictures)
    crops = [pool.crop(0, index, 16) for index in range(20)]
    said = capsys.readouterr().err
    assert said.count("bad.png: can't be read as a picture") == 1
    later = damage == "truncated" and not decode  # its header is whole, so it is found out when it is drawn
    assert ("1 so far in this process" if later else "1 of 2 files are left out") in said
    assert len(pool) == (2 if later else 1)
    again = PicturePool(pictures)
    assert all(torch.equal(again.crop(0, index, 16), crop) for index, crop in reversed(list(enumerate(crops))))
    (tmp_path / "in" / "a.png").unlink()
    with pytest.raises(DataError, match=r"bad\.png: can't be read as a picture .*; remove it|100 pictures in a row"):
        PicturePool(pictures).crop(0, 0, 16)


def write_manifest(path: Path, kinds: dict[str, str], columns: tuple[str, str] = ("file", "kind")) -> str:
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows([columns, *kinds.items()])
    return str(path)


def test_kinds_get_their_share_of_crops(tmp_path: Path) -> None:
    """Kinds 60 : 30 and 10 for the one not named, shared among its pictures; each picture has a red of its own."""
    kinds = {"0.png": "photo", "1.png": "text", "2.png": "text", "3.png": "art"}
    for name in kinds:
        save(tmp_path / "in" / name, 20, 20, value=int(name[0]))
    manifest = write_manifest(tmp_path / "kinds.csv", kinds)
    weights = {"photo": 0.6, "text": 0.3}
    pool = PicturePool(
        PictureSet(str(tmp_path / "in"), str(tmp_path / "cache"), 16, manifest, weights, other_weight=0.1)
    )
    count = 1500
    seen = np.bincount([int(pool.crop(3, index, 8)[0, 0, 0]) for index in range(count)], minlength=4) / count
    expected = np.array([0.6, 0.15, 0.15, 0.1])
    assert (np.abs(seen - expected) < 4 * np.sqrt(expected * (1 - expected) / count)).all()


def test_pictures_of_a_kind_and_licence_can_be_left_out(tmp_path: Path) -> None:
    rows = {"0.png": ("photo", "CC0"), "1.png": ("photo", "MIT"), "2.png": ("text", "CC0"), "3.png": ("art", "CC0")}
    for name in rows:
        save(tmp_path / "in" / name, 20, 20)
    save(tmp_path / "in" / "unlisted.png", 20, 20)
    table = "\n".join(",".join((name, *row)) for name, row in rows.items())
    (tmp_path / "kinds.csv").write_text(f"file,kind,licence\n{table}\n")
    pictures = PictureSet(str(tmp_path / "in"), str(tmp_path / "cache"), 16, str(tmp_path / "kinds.csv"))
    without = {"kind": ["photo", "art"], "licence": ["CC0"]}
    pool = PicturePool(dataclasses.replace(pictures, without=without))
    assert [row["file"] for row in pool.table] == ["1.png", "2.png", "unlisted.png"]
    assert pool.identity != PicturePool(pictures).identity
    with pytest.raises(DataError, match="no column 'source'; it needs file, kind, source"):
        PicturePool(dataclasses.replace(pictures, without={"source": ["web"]}))


def test_a_manifest_that_does_not_fit_is_named(tmp_path: Path) -> None:
    save(tmp_path / "in" / "0.png", 20, 20)
    pictures = PictureSet(str(tmp_path / "in"), str(tmp_path / "cache"), 16)
    with pytest.raises(DataError, match=r"none\.csv: can't read the manifest"):
        PicturePool(dataclasses.replace(pictures, manifest=str(tmp_path / "none.csv")))
    other = write_manifest(tmp_path / "other.csv", {"0.png": "photo"}, ("file", "class"))
    with pytest.raises(DataError, match=r"other\.csv: the manifest has no column 'kind'"):
        PicturePool(dataclasses.replace(pictures, manifest=other))
    manifest = write_manifest(tmp_path / "kinds.csv", {"0.png": "photo"})
    with pytest.raises(DataError, match="kind_weights and other_weight must be"):
        PicturePool(dataclasses.replace(pictures, manifest=manifest, kind_weights={"photo": 0.0}))


@law
@given(st.integers(0, 2**40), st.lists(st.integers(0, 2**40), max_size=2))
def test_a_pair_is_a_function_of_seed_and_index(pictures: PictureSet, index: int, before: list[int]) -> None:
    pairs = PairSettings(crop=32)
    used = PairDataset(pictures, pairs, 5)
    for other in before:
        used[other]
    one, two = PairDataset(pictures, pairs, 5)[index], used[index]
    assert one["hr"].shape == (3, 32, 32)
    assert one["lr"].shape == (3, 8, 8)
    for key, value in one.items():
        assert value.dtype == torch.float32
        assert 0 <= value.min() <= value.max() <= 1
        assert torch.equal(value, two[key])


def test_pairs_are_of_every_kind_in_the_mixture(pictures: PictureSet) -> None:
    dataset = PairDataset(pictures, PairSettings(crop=16, mixture={"bicubic": 3.0, "mild": 1.0, "real_esrgan": 0.0}), 0)
    kinds = {"bicubic": DegradationConfig.bicubic(), "mild": DegradationConfig.mild()}
    counts = dict.fromkeys(kinds, 0)
    for index in range(300):
        pair = dataset[index]
        made = {name: degrade_at(pair["hr"], kind, 0, index) for name, kind in kinds.items()}
        found = [name for name, lr in made.items() if torch.equal(lr, pair["lr"])]
        assert found
        counts[found[0]] += 1
    assert 300 * 0.75 - 30 < counts["bicubic"] < 300 * 0.75 + 30


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mixture": {"wild": 1.0}}, "give positive shares of bicubic, camera, mild, real_esrgan"),
        ({"mixture": {"mild": 0.0}}, "give positive shares"),
        ({"mixture": {"mild": 2.0, "bicubic": -1.0}}, "give positive shares"),
        ({"mixture": {}}, "give positive shares"),
        ({"crop": 40}, "crop 40 must be a multiple of 16"),
        ({"crop": 0}, "crop 0 must be a multiple of 16"),
        ({"draws": 0}, "draws 0 must be at least 1"),
    ],
)
def test_impossible_pairs_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        PairSettings(**change)


def test_validation_pairs(training_pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pairs = validation_pairs(str(training_pictures), 0)
    assert [tuple(pair["hr"].shape) for pair in pairs] == [
        (1, 3, 96, 112),
        (1, 3, 112, 96),
        (1, 3, 128, 128),
        (1, 3, 112, 160),
    ]
    for number, pair in enumerate(pairs):
        lr = degrade_at(pair["hr"][0], DegradationConfig.bicubic(), 0, number)
        assert torch.equal(pair["lr"][0], lr)
    centre = validation_pairs(str(training_pictures), 2, "mild", side=50)
    assert [tuple(pair["hr"].shape) for pair in centre] == [(1, 3, 48, 48)] * 2
    assert torch.equal(centre[0]["hr"], pairs[0]["hr"][..., 24:72, 32:80])
    assert not torch.equal(centre[0]["lr"], pairs[0]["lr"][..., 6:18, 8:20])
    assert not list(tmp_path.iterdir())


def test_validation_pairs_leave_out_small_pictures(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 63, 200)
    with pytest.raises(DataError, match="no picture has both sides of at least 64 pixels"):
        validation_pairs(str(tmp_path), 0)
    save(tmp_path / "b.png", 64, 79)
    assert [tuple(pair["hr"].shape[2:]) for pair in validation_pairs(str(tmp_path), 5)] == [(64, 64)]
