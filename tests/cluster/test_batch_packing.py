"""Patches of many pictures in one batch: each picture gets what it would have got alone, and the batches are full."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from patchscaler import PatchScalerPipeline
from patchscaler.cluster.packing import SharedCrew, batches, plan_chunks
from patchscaler.diffusion.pgs import assign_groups
from patchscaler.errors import ConfigError
from patchscaler.imaging.files import read_picture
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.picture import Picture
from patchscaler.inference import way
from patchscaler.inference.canvas import FloatCanvas
from patchscaler.inference.crew import Crew
from patchscaler.inference.settings import Settings
from patchscaler.making import Order, make
from patchscaler.report import Report
from patchscaler.sizes import target_size

SETTINGS = Settings(steps=(1, 2, 3), gammas=(0.96, 0.9545), batch_size=8)
SIDES = [(20, 24), (40, 90), (7, 5), (33, 60), (48, 48), (64, 20)]


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    generator = torch.Generator().manual_seed(3)
    found = []
    for height, width in SIDES:
        smooth = torch.linspace(0, 1, width).expand(1, 3, height, width).clone()
        smooth[..., width // 2 :] = torch.rand(1, 3, height, width - width // 2, generator=generator)
        found.append(Picture(smooth))
    return found


def x4(crew: Crew, picture: Picture, settings: Settings) -> tuple[torch.Tensor, Report]:
    canvas = FloatCanvas(Size(*(4 * side for side in picture.size)), torch.device("cpu"), False)
    report = Report("cpu", "float32", settings.seed)
    way.enlarge(picture, crew, settings, canvas, report)
    return canvas.pixels, report


def tasks(crew: Crew, pictures: list[Picture], settings: list[Settings]) -> list[Callable[[], Any]]:
    return [lambda each=each: x4(crew, *each) for each in zip(pictures, settings, strict=True)]


@pytest.mark.parametrize("capacity", [256, 7])
@pytest.mark.parametrize("overlap", [True, False])
def test_together_as_alone(
    tiny_pipeline: PatchScalerPipeline, pictures: list[Picture], capacity: int, overlap: bool
) -> None:
    """Whatever the sizes, and with a seed of each picture's own; more patches than are sampled at a time, too."""
    settings = [replace(SETTINGS, seed=number) for number in range(len(pictures))]
    shared = SharedCrew(tiny_pipeline.parts, capacity, overlap)
    together = shared.run(tasks(shared, pictures, settings))
    for (found, report), picture, own in zip(together, pictures, settings, strict=True):
        expected, alone = x4(Crew(tiny_pipeline.parts), picture, own)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        assert (report.patches, report.patch_steps) == (alone.patches, alone.patch_steps)
        assert report.stages.keys() == alone.stages.keys()
    other, _ = x4(Crew(tiny_pipeline.parts), pictures[1], settings[0])
    assert not torch.allclose(together[1][0], other, atol=1e-3)  # the seed matters


def test_batches_are_full_across_pictures(tiny_pipeline: PatchScalerPipeline, pictures: list[Picture]) -> None:
    calls: list[int] = []
    shared = SharedCrew(tiny_pipeline.parts)
    denoise = shared.refiner._folded
    shared.refiner._folded = lambda x, *rest: (calls.append(len(x)), denoise(x, *rest))[1]
    many = [pictures[number % 2] for number in range(12)]
    uniform = replace(SETTINGS, steps=(2, 2, 2), taus=(1000, 1000, 1000))  # one time step a batch
    reports = [report for _, report in shared.run(tasks(shared, many, [uniform] * 12))]
    patches = sum(sum(report.patches.values()) for report in reports)
    assert sum(calls) == shared.counts.patch_steps == sum(report.patch_steps for report in reports) == 2 * patches
    assert sorted(calls, reverse=True)[:-2] == [8] * (len(calls) - 2)  # all but the last of each step
    assert shared.counts.calls == len(calls)
    assert shared.counts.fill > 0.9
    alone = SharedCrew(tiny_pipeline.parts)
    for picture in many:
        alone.run(tasks(alone, [picture], [uniform]))
    assert alone.counts.fill < 0.6  # pictures of one and eight patches


@given(st.lists(st.integers(0, 2), max_size=60), st.integers(1, 9), st.integers(1, 40))
def test_calls_are_counted_right(members: list[int], batch_size: int, capacity: int) -> None:
    settings = Settings(steps=(0, 2, 3), batch_size=batch_size)
    groups = torch.tensor(sorted((group for group in members if group), reverse=True), dtype=torch.int64)
    calls, patch_steps = batches(groups, settings, capacity)
    assert patch_steps == sum((0, 2, 3)[group] for group in members)
    assert patch_steps <= calls * batch_size
    assert (calls == 0) == (patch_steps == 0)


@pytest.mark.parametrize("victim", [0, 3, 5])
def test_one_picture_fails_the_others_are_done(
    tiny_pipeline: PatchScalerPipeline, pictures: list[Picture], victim: int
) -> None:
    shared = SharedCrew(tiny_pipeline.parts)
    work = tasks(shared, pictures, [SETTINGS] * len(pictures))

    def fail() -> None:
        with shared.reading():
            raise ConfigError("bad")

    work[victim] = fail
    outcomes = shared.run(work)
    assert isinstance(outcomes[victim], ConfigError)
    for number in {0, 1, 2, 3, 4, 5} - {victim}:
        expected, _ = x4(Crew(tiny_pipeline.parts), pictures[number], SETTINGS)
        torch.testing.assert_close(outcomes[number][0], expected, atol=1e-5, rtol=0)


def test_too_much_together_is_done_one_by_one(tiny_pipeline: PatchScalerPipeline, pictures: list[Picture]) -> None:
    """Out of memory: who fits alone is done."""
    shared = SharedCrew(tiny_pipeline.parts)
    refine = shared.refiner

    def scarce(patches: Any, *rest: Any) -> Any:
        if len(patches.places) > 4:
            raise MemoryError
        return refine(patches, *rest)

    shared.refiner = scarce
    outcomes = shared.run(tasks(shared, pictures, [SETTINGS] * len(pictures)))
    failed = [isinstance(outcome, MemoryError) for outcome in outcomes]
    sizes = [sum(x4(Crew(tiny_pipeline.parts), picture, SETTINGS)[1].patches.values()) for picture in pictures]
    assert failed == [size > 4 for size in sizes]
    assert set(failed) == {True, False}


@pytest.mark.parametrize("wish", [{"scale": 4}, {"scale": 6}, {"scale": 2.5}])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_files_are_those_of_single_runs(
    tmp_path: Path, tiny_pipeline: PatchScalerPipeline, photo: Image.Image, wish: dict[str, Any], mode: str
) -> None:
    """Two passes, transparency and grey too; within one level of 255, where another processor may round elsewhere."""
    order = Order("tiny", wish, SETTINGS, {"quality": 95, "lossless": False, "metadata": True})
    places = []
    for number, side in enumerate((18, 30, 41)):
        image = photo.resize((side, side - 4)).convert(mode)
        if mode == "RGBA":
            image.putalpha(Image.linear_gradient("L").resize(image.size))
        image.save(tmp_path / f"{number}.png")
        places.append(tmp_path / f"{number}.png")

    def enlarged(crew: Crew, path: Path, name: str) -> np.ndarray:
        picture = read_picture(path)
        made = make(crew, picture, path.with_name(name), target_size(picture.size, **wish), order)
        made.clear()
        with Image.open(path.with_name(name)) as result:
            return np.asarray(result).astype(int)

    alone = [enlarged(Crew(tiny_pipeline.parts), path, "alone.png") for path in places]
    shared = SharedCrew(tiny_pipeline.parts)
    work = [lambda path=path: enlarged(shared, path, f"{path.stem}_shared.png") for path in places]
    for expected, found in zip(alone, shared.run(work), strict=True):
        assert expected.shape == found.shape
        assert np.abs(expected - found).max() <= 1


def test_a_patch_is_prompted_alone_as_among_others(tiny_pipeline: PatchScalerPipeline) -> None:
    parts = tiny_pipeline.parts
    patches = torch.randn(9, 32, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        among = parts.prompt(patches)
        for number in range(9):
            alone = parts.prompt(patches[number : number + 1])
            for found, expected in zip(alone, among, strict=True):
                torch.testing.assert_close(found[0], expected[number], atol=1e-5, rtol=0)


@given(st.lists(st.integers(1, 400), max_size=80), st.integers(1, 256))
def test_chunks(patches: list[int], capacity: int) -> None:
    chunks = plan_chunks(patches, capacity)
    assert sorted(number for chunk in chunks for number in chunk) == list(range(len(patches)))
    loads = [sum(patches[number] for number in chunk) for chunk in chunks]
    assert all(load <= capacity or len(chunk) == 1 for load, chunk in zip(loads, chunks, strict=True))
    if len(chunks) > 1:  # no two that would fit together
        assert sum(sorted(loads)[:2]) > capacity


def test_no_pictures_make_no_chunks() -> None:
    assert plan_chunks([], 256) == []
    assert len(assign_groups(torch.empty(0))) == 0
