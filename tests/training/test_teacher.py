"""Pairs made by another upscaler: the right crop of the right enlargement, in the share asked for."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from patchscaler.data.pairs import PairDataset, PairSettings
from patchscaler.data.pictures import PictureSet
from patchscaler.data.teacher import TeacherPairs, TeacherSettings
from patchscaler.errors import ConfigError, DataError


@pytest.fixture
def teacher(tmp_path: Path) -> TeacherSettings:
    """Two pictures of 20x24 pixels: red is the column, green the row, blue the picture. Enlarged, each pixel is 4x4."""
    for name in ("lr", "hr"):
        (tmp_path / name).mkdir()
    for number in range(2):
        y, x = np.mgrid[0:20, 0:24]
        low = np.stack([x, y, np.full_like(x, 100 + number)], axis=2).astype(np.uint8)
        Image.fromarray(low).save(tmp_path / "lr" / f"{number}.png")
        Image.fromarray(low.repeat(4, axis=0).repeat(4, axis=1)).save(tmp_path / "hr" / f"{number}.png")
    return TeacherSettings(str(tmp_path / "lr"), str(tmp_path / "hr"), 0.5)


def test_both_crops_show_the_same_place_of_the_same_picture(teacher: TeacherSettings) -> None:
    pairs, places = TeacherPairs(teacher, 32), set()
    assert len(pairs) == 2
    for seed in range(200):
        pair = pairs.draw(np.random.default_rng(seed))
        assert pair["lr"].shape == (3, 8, 8)
        assert torch.equal(pair["hr"], pair["lr"].repeat_interleave(4, 1).repeat_interleave(4, 2))
        corner = tuple((pair["lr"][channel] * 255).round().int().min().item() for channel in range(3))
        first = tuple((pair["lr"][:2, 0, 0] * 255).round().int().tolist())
        places.add((corner, first))
    assert {corner[2] for corner, _ in places} == {100, 101}
    assert len({corner for corner, _ in places}) > 100  # of 2 * 13 * 17
    assert len({(first[0] > corner[0], first[1] > corner[1]) for corner, first in places}) == 4  # turned


def from_teacher(pair: dict[str, torch.Tensor]) -> bool:
    """Whether the blue is that of the fixture's pictures, all over."""
    return len(pair["lr"][2].unique()) == 1 and round(float(pair["lr"][2, 0, 0]) * 255) in (100, 101)


def test_the_share_of_pairs_is_the_teachers_and_a_function_of_the_index(
    teacher: TeacherSettings, pictures: PictureSet
) -> None:
    settings = PairSettings(crop=32, mixture={"bicubic": 1.0}, teacher=teacher)
    dataset = PairDataset(pictures, settings, 3)
    plain, taught = PairDataset(pictures, dataclasses.replace(settings, teacher=None), 3), 0
    for index in range(300):
        pair, again, ours = dataset[index], PairDataset(pictures, settings, 3)[index], plain[index]
        assert all(torch.equal(pair[name], again[name]) for name in pair)
        taught += from_teacher(pair)
        assert from_teacher(pair) or torch.equal(pair["hr"], ours["hr"])
    assert 115 <= taught <= 185  # 300 fair coins lie outside once in 10,000


def test_what_does_not_fit_is_refused_by_name(teacher: TeacherSettings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"teacher.share 1.5"):
        dataclasses.replace(teacher, share=1.5)
    with pytest.raises(DataError, match=r"0.png: too small for crops of 96"):
        TeacherPairs(teacher, 96).draw(np.random.default_rng(1))
    Image.new("RGB", (40, 40)).save(Path(teacher.hr) / "1.png")
    with pytest.raises(DataError, match=r"1.png: \(40, 40\) is not 4 times \(20, 24\)"):
        [TeacherPairs(teacher, 32).draw(np.random.default_rng(seed)) for seed in range(20)]
    (Path(teacher.hr) / "1.png").unlink()
    with pytest.raises(DataError, match=r"no enlargement of .*1.png"):
        TeacherPairs(teacher, 32)
