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

from arrays import assert_close, uniform
from patchscaler import Options, PatchScalerPipeline, Result, Upscaler
from patchscaler.cluster import batching
from patchscaler.cluster.batching import SharedExecutor, plan_chunks
from patchscaler.engines.torch import TorchEngine
from patchscaler.errors import ConfigError
from patchscaler.imaging.files import read_picture
from patchscaler.imaging.picture import Picture
from patchscaler.pgs.groups import assign_groups

OPTIONS = Options(steps=(1, 2, 3), gammas=(0.96, 0.9545), batch_size=8)
SIDES = [(20, 24), (40, 90), (7, 5), (33, 60), (48, 48), (64, 20)]


@pytest.fixture(scope="module")
def engine(tiny_pipeline: PatchScalerPipeline) -> TorchEngine:
    return TorchEngine(tiny_pipeline.parts)


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    found = []
    for height, width in SIDES:
        smooth = np.tile(np.linspace(0, 1, width, dtype=np.float32), (1, 3, height, 1))
        smooth[..., width // 2 :] = uniform(1, 3, height, width - width // 2, seed=height)
        found.append(Picture(smooth))
    return found


def tasks(executor: SharedExecutor, pictures: list[Picture], options: list[Options]) -> list[Callable[[], Result]]:
    upscaler = Upscaler(engine=executor.engine, executor=executor)
    return [
        lambda picture=picture, own=own: upscaler(picture, options=own)
        for picture, own in zip(pictures, options, strict=True)
    ]


@pytest.mark.parametrize("capacity", [256, 7])
@pytest.mark.parametrize("overlap", [True, False])
def test_together_as_alone(
    engine: TorchEngine, tiny_upscaler: Upscaler, pictures: list[Picture], capacity: int, overlap: bool
) -> None:
    """Whatever the sizes, and with a seed of each picture's own; more patches than are sampled at a time, too."""
    options = [replace(OPTIONS, seed=number) for number in range(len(pictures))]
    shared = SharedExecutor(engine, capacity, overlap)
    together = shared.run(tasks(shared, pictures, options))
    for found, picture, own in zip(together, pictures, options, strict=True):
        alone = tiny_upscaler(picture, options=own)
        assert_close(found.pixels, alone.pixels, atol=1e-5, rtol=0)
        assert (found.report.patches, found.report.patch_steps) == (alone.report.patches, alone.report.patch_steps)
        assert found.report.stages.keys() == alone.report.stages.keys()
    other = tiny_upscaler(pictures[1], options=options[0])
    assert not np.allclose(together[1].pixels, other.pixels, atol=1e-3)  # the seed matters


def test_batches_are_full_across_pictures(
    engine: TorchEngine, pictures: list[Picture], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    shared = SharedExecutor(engine)
    denoise = engine.denoise
    monkeypatch.setattr(engine, "denoise", lambda x, *rest: (calls.append(len(x)), denoise(x, *rest))[1])
    many = [pictures[number % 2] for number in range(12)]
    alike = replace(OPTIONS, steps=(2, 2, 2), taus=(1000, 1000, 1000))  # one time step a batch
    reports = [result.report for result in shared.run(tasks(shared, many, [alike] * 12))]
    patches = sum(sum(report.patches.values()) for report in reports)
    assert sum(calls) == sum(report.patch_steps for report in reports) == 2 * patches
    assert sorted(calls, reverse=True)[:-2] == [8] * (len(calls) - 2)  # all but the last of each step
    together = len(calls)
    for picture in many:
        shared.run(tasks(shared, [picture], [alike]))
    assert len(calls) - together > 1.5 * together  # pictures of one and eight patches


@pytest.mark.parametrize("victim", [0, 3, 5])
def test_one_picture_fails_the_others_are_done(
    engine: TorchEngine, tiny_upscaler: Upscaler, pictures: list[Picture], victim: int
) -> None:
    shared = SharedExecutor(engine)
    work: list[Callable[[], Any]] = list(tasks(shared, pictures, [OPTIONS] * len(pictures)))

    def fail() -> None:
        with shared.reading():
            raise ConfigError("bad")

    work[victim] = fail
    outcomes = shared.run(work)
    assert isinstance(outcomes[victim], ConfigError)
    for number in {0, 1, 2, 3, 4, 5} - {victim}:
        expected = tiny_upscaler(pictures[number], options=OPTIONS)
        assert_close(outcomes[number].pixels, expected.pixels, atol=1e-5, rtol=0)


def test_too_much_together_is_done_one_by_one(
    engine: TorchEngine, tiny_upscaler: Upscaler, pictures: list[Picture], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of memory: who fits alone is done."""
    refine = batching.refine_patches

    def scarce(engine: TorchEngine, patches: Any, *rest: Any) -> Any:
        if len(patches.places) > 4:
            raise MemoryError
        return refine(engine, patches, *rest)

    monkeypatch.setattr(batching, "refine_patches", scarce)
    shared = SharedExecutor(engine)
    outcomes = shared.run(tasks(shared, pictures, [OPTIONS] * len(pictures)))
    failed = [isinstance(outcome, MemoryError) for outcome in outcomes]
    sizes = [sum(tiny_upscaler(picture, options=OPTIONS).report.patches.values()) for picture in pictures]
    assert failed == [size > 4 for size in sizes]
    assert set(failed) == {True, False}


@pytest.mark.parametrize("size", [{"scale": 4}, {"scale": 6}, {"scale": 2.5}])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_files_are_those_of_single_runs(
    tmp_path: Path, engine: TorchEngine, photo: Image.Image, size: dict[str, Any], mode: str
) -> None:
    """Two passes, transparency and grey too; within one level of 255, where another processor may round elsewhere."""
    places = []
    for number, side in enumerate((18, 30, 41)):
        image = photo.resize((side, side - 4)).convert(mode)
        if mode == "RGBA":
            image.putalpha(Image.linear_gradient("L").resize(image.size))
        image.save(tmp_path / f"{number}.png")
        places.append(tmp_path / f"{number}.png")

    def enlarged(upscaler: Upscaler, path: Path, name: str) -> np.ndarray:
        file = path.with_name(name)
        made = upscaler(read_picture(path), **size, options=OPTIONS, file=file)
        made.save(file)
        made.clear()
        with Image.open(file) as result:
            return np.asarray(result).astype(int)

    alone = [enlarged(Upscaler(engine=engine), path, "alone.png") for path in places]
    shared = SharedExecutor(engine)
    together = Upscaler(engine=engine, executor=shared)
    work = [lambda path=path: enlarged(together, path, f"{path.stem}_shared.png") for path in places]
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
    assert len(assign_groups(np.empty(0))) == 0
