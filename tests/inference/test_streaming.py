"""Any size in bounded memory: in pieces or whole, in files or in memory, killed and resumed, the result is the same."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from arrays import assert_close, uniform
from patchscaler import Options, PatchScalerPipeline, Upscaler
from patchscaler.engines import torch as torch_engine
from patchscaler.engines.torch import TorchEngine
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.picture import Picture, quantise
from patchscaler.imaging.resize import enlarge_rows, resize_bicubic
from patchscaler.imaging.tiles import plan_tiles
from patchscaler.report import Progress, Report
from patchscaler.stages import executor, render
from patchscaler.stages.canvas import SampleCanvas
from patchscaler.stages.refine import Patches
from patchscaler.stages.spill import Spill, fingerprint
from patchscaler.stages.task import Task

law = settings(deadline=None, max_examples=15)
MIXED = (0.96, 0.9545)
OPTIONS = Options(steps=(0, 1, 2), gammas=MIXED)


def picture_of(height: int, width: int, with_alpha: bool = False, grey: bool = False, bits: int = 8) -> Picture:
    pixels = uniform(1, 3, height, width, seed=height * 1000 + width)
    alpha = uniform(1, 1, height, width, seed=height) if with_alpha else None
    return Picture(pixels, alpha, grey=grey, bits=bits)


def enlarged(pipeline: PatchScalerPipeline, picture: Picture, **more: Any) -> tuple[np.ndarray, Patches]:
    """By all four stages."""
    upscaler = Upscaler(engine=TorchEngine(pipeline.parts))
    task = Task(picture=picture, options=OPTIONS, report=Report("cpu", "", 0), **more)
    patches = upscaler.group(upscaler.restore(task))
    upscaler.refine(patches)
    return upscaler.render(patches), patches


@pytest.fixture
def in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits so low that a small picture has many tiles, sets and bands."""
    monkeypatch.setattr(torch_engine, "RESTORE_AREA", 700)
    monkeypatch.setattr(executor, "SET_SIZE", 3)
    monkeypatch.setattr(render, "BAND_AREA", 200)
    monkeypatch.setattr(torch_engine, "DCT_AREA", 900)


@pytest.mark.parametrize(("height", "width"), [(90, 61), (33, 140), (5, 80), (101, 9)])
def test_pieces_make_the_whole(
    tiny_pipeline: PatchScalerPipeline, request: pytest.FixtureRequest, tmp_path: Path, height: int, width: int
) -> None:
    picture = picture_of(height, width)
    whole, found_whole = enlarged(tiny_pipeline, picture)
    request.getfixturevalue("in_pieces")
    for spill in (Spill(), Spill(tmp_path / "work")):
        parts, found = enlarged(tiny_pipeline, picture, spill=spill)
        assert_close(parts, whole, atol=1e-5, rtol=0)
        assert_close(found.coarse.confidence, found_whole.coarse.confidence, atol=1e-5, rtol=0)
        assert np.array_equal(found.groups, found_whole.groups)
    latents = max(-(-height // 2), 16) * max(-(-width // 2), 16)
    assert (tmp_path / "work" / "latents.raw").stat().st_size == 4 * 32 * latents


@pytest.mark.usefixtures("in_pieces")
@pytest.mark.parametrize(("grey", "bits"), [(False, 8), (True, 8), (False, 16), (True, 16)])
def test_samples_are_the_rounded_pixels(
    tiny_pipeline: PatchScalerPipeline, tmp_path: Path, grey: bool, bits: int
) -> None:
    picture = picture_of(40, 30, False, grey, bits)
    exact, _ = enlarged(tiny_pipeline, picture)
    spill = Spill(tmp_path)
    samples, _ = enlarged(tiny_pipeline, picture, spill=spill, canvas=SampleCanvas(spill, Size(160, 120), picture))
    dtype = np.uint16 if bits == 16 else np.uint8
    assert samples.dtype == dtype
    assert np.array_equal(quantise(samples, None, grey, dtype), quantise(exact, None, grey, dtype))


@law
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    channels=st.sampled_from([1, 3]),
    data=st.data(),
)
def test_enlarged_rows_are_those_of_the_whole(height: int, width: int, channels: int, data: st.DataObject) -> None:
    pixels = uniform(1, channels, height, width, seed=height)
    top = data.draw(st.integers(0, 4 * height - 1))
    bottom = data.draw(st.integers(top + 1, 4 * height))
    whole = resize_bicubic(pixels, Size(4 * height, 4 * width))
    assert_close(enlarge_rows(pixels, 4, top, bottom), whole[..., top:bottom, :], atol=1e-6, rtol=0)


@law
@given(height=st.integers(1, 90), width=st.integers(1, 90), halo=st.integers(0, 9), area=st.integers(400, 3000))
def test_tiles_cover_once_and_stay_small(height: int, width: int, halo: int, area: int) -> None:
    size = Size(height, width)
    covered = np.zeros((height, width))
    tiles = plan_tiles(size, halo, area)
    for tile in tiles:
        tile.of(covered)[:] += 1
        wide = tile.widened(halo, size)
        assert wide.area <= area
        assert tile.within(wide).of(wide.of(covered)).shape == tile.of(covered).shape
    assert (covered == 1).all()
    if height * width <= area:
        assert len(tiles) == 1


# Killed and resumed

KILLED = """
import json, os, signal, sys
from patchscaler.models import light
light.choose()
from patchscaler.cli.main import main
from patchscaler.engines import torch as engine
from patchscaler.stages import executor, render, spill
engine.RESTORE_AREA, executor.SET_SIZE, render.BAND_AREA = 700, 3, 200
note = spill.Spill.note
def note_and_die(self, **notes):
    global left
    note(self, **notes)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
spill.Spill.note = note_and_die
for line in sys.stdin:
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    os.dup2(2, 1)
    left, *words = json.loads(line)
    sys.argv = ["patchscaler", "upscale", *words]
    main()
"""


NEVER = 10_000
RunKilled = Callable[..., int]


@pytest.fixture(scope="module")
def run_killed() -> Iterator[RunKilled]:
    """run_killed(after, *arguments): the command, killed after so many notes of what is done; its exit code.

    Each is a fork of one process, which has torch and nothing else of a run.
    """
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", KILLED], text=True, **pipes) as parent:

        def run(after: int, *arguments: object) -> int:
            assert parent.stdin
            assert parent.stdout
            print(json.dumps([after, *map(str, arguments)]), file=parent.stdin, flush=True)
            return int(parent.stdout.readline())

        yield run


@pytest.fixture(scope="module", params=[False, True], ids=["opaque", "clear"])
def call_and_result(
    request, run_killed: RunKilled, tiny_model: Path, tmp_path_factory, photo: Image.Image
) -> tuple[tuple[object, ...], bytes]:
    """A call of the command, and the file that it writes when nothing disturbs it."""
    folder = tmp_path_factory.mktemp("whole")
    picture = photo.copy()
    if request.param:
        picture.putalpha(Image.linear_gradient("L").resize(photo.size))
    picture.save(folder / "p.png")
    call = (folder / "p.png", "--model", tiny_model, "--device", "cpu", "--gammas", "0.96,0.9545", "--steps", "1,2,3")
    assert run_killed(NEVER, *call, "-o", folder / "whole.png") == 0
    return call, (folder / "whole.png").read_bytes()


@pytest.mark.parametrize("moments", [(2,), (6, 3)])
def test_a_killed_run_goes_on(
    run_killed: RunKilled,
    call_and_result: tuple[tuple[object, ...], bytes],
    tmp_path: Path,
    moments: tuple[int, ...],
) -> None:
    call, result = call_and_result
    for after in moments:
        assert run_killed(after, *call, "--resume", "-o", tmp_path / "parts.png") == -9
        assert not (tmp_path / "parts.png").exists()
        begun = len(list(tmp_path.glob(".parts.png.*.work")))  # a pass of the model for colour, one for transparency
        with Image.open(Path(str(call[0]))) as picture:
            assert begun in ((1, 2) if picture.mode == "RGBA" else (1,))
    assert run_killed(NEVER, *call, "--resume", "-o", tmp_path / "parts.png") == 0
    assert (tmp_path / "parts.png").read_bytes() == result
    assert not list(tmp_path.glob(".*"))


def test_what_is_done_is_not_done_again(tiny_pipeline: PatchScalerPipeline, tmp_path: Path) -> None:
    picture = picture_of(45, 61)
    first, _ = enlarged(tiny_pipeline, picture, spill=Spill(tmp_path))
    seen: list[Progress] = []
    spill = Spill(tmp_path)
    spill.note(finished=0)  # as if killed before the first band
    again, _ = enlarged(tiny_pipeline, picture, spill=spill, notify=seen.append)
    assert np.array_equal(again, first)
    assert not [progress for progress in seen if progress.stage in ("prompt", "sample")]


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"steps": (0, 1, 3)}, {"gammas": (0.9, 0.5)}, {"taus": (300, 700, 1000)}]
)
def test_other_options_are_other_work(tiny_pipeline: PatchScalerPipeline, change: dict[str, Any]) -> None:
    picture, engine = picture_of(5, 6), TorchEngine(tiny_pipeline.parts)
    name = fingerprint(picture, Options(), engine)
    assert name == fingerprint(picture, Options(), engine)
    assert name != fingerprint(picture, Options(**change), engine)
    assert name != fingerprint(picture_of(5, 7), Options(), engine)
    assert name != fingerprint(picture_of(5, 6, with_alpha=True), Options(), engine)
