"""Several processes share the patches: the result is one process's, also when some of them die."""

import os
import signal

import pytest
import torch

from patchscaler import PatchScalerPipeline
from patchscaler.errors import ConfigError
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.picture import Picture
from patchscaler.inference import crew as crew_module
from patchscaler.inference import way
from patchscaler.inference.canvas import FloatCanvas
from patchscaler.inference.crew import Crew, Work
from patchscaler.inference.settings import Settings
from patchscaler.inference.workers import Worker, _may_take
from patchscaler.report import Progress, Report

SETTINGS = Settings(steps=(1, 2, 3), gammas=(0.96, 0.9545), batch_size=2)


@pytest.fixture(scope="module")
def picture() -> Picture:
    generator = torch.Generator().manual_seed(0)
    smooth = torch.linspace(0, 1, 90).expand(1, 3, 40, 90).clone()
    smooth[..., 45:] = torch.rand(1, 3, 40, 45, generator=generator)
    return Picture(smooth)


@pytest.fixture(scope="module")
def expected(tiny_pipeline: PatchScalerPipeline, picture: Picture) -> torch.Tensor:
    return run(Crew(tiny_pipeline.parts), picture)[0]


def run(crew: Crew, picture: Picture, notify=lambda progress: None) -> tuple[torch.Tensor, Report]:
    canvas = FloatCanvas(Size(160, 360), torch.device("cpu"), False)
    report = Report("cpu", "float32", 0)
    way.enlarge(picture, crew, SETTINGS, canvas, report, notify=notify)
    return canvas.pixels, report


@pytest.mark.parametrize("split", ["cost", "groups"])
def test_two_workers_do_as_one(
    tiny_pipeline: PatchScalerPipeline, picture: Picture, expected: torch.Tensor, split: str
) -> None:
    seen: list[Progress] = []
    with Crew(tiny_pipeline.parts, ("cpu", "cpu"), split) as crew:
        found, report = run(crew, picture, seen.append)
        again, _ = run(crew, picture)  # the same workers do the next picture
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert torch.equal(found, again)
    assert report.lost_workers == []
    assert not any(worker.process.is_alive() for worker in crew.workers)
    for stage, total in (("prompt", sum(report.patches.values())), ("sample", report.patch_steps)):
        done = [progress.done for progress in seen if progress.stage == stage]
        assert done == sorted(set(done))
        assert done[-1] == total == next(progress.total for progress in seen if progress.stage == stage)


@pytest.mark.parametrize("victims", [1, 2])
def test_a_killed_worker_is_reported_and_its_patches_are_done(
    tiny_pipeline: PatchScalerPipeline,
    picture: Picture,
    expected: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
    victims: int,
) -> None:
    monkeypatch.setattr(crew_module, "SETS_PER_HAND", 2)
    messages: list[str] = []
    with Crew(tiny_pipeline.parts, ("cpu", "cpu"), on_loss=messages.append) as crew:
        doomed = crew.workers[:victims]

        def kill(progress: Progress) -> None:
            if progress.stage == "sample":
                for worker in doomed:
                    os.kill(worker.process.pid, signal.SIGKILL)
                doomed.clear()

        found, report = run(crew, picture, kill)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert len(messages) == victims
    assert report.lost_workers == messages
    assert all("(cpu) died (killed by SIGKILL); its patches are done by the others" in text for text in messages)


def test_a_worker_that_is_dead_before_the_work(
    tiny_pipeline: PatchScalerPipeline, picture: Picture, expected: torch.Tensor
) -> None:
    with Crew(tiny_pipeline.parts, ("cpu", "cpu")) as crew:
        crew.workers[1].process.kill()
        crew.workers[1].process.join()
        found, report = run(crew, picture)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert len(report.lost_workers) == 1


def test_the_papers_split(tiny_pipeline: PatchScalerPipeline) -> None:
    work = Work([0, 1, 2], [9, 4, 4], [3, 2, 2], frozenset({0}), lambda n: None, lambda n, v: None)
    with Crew(tiny_pipeline.parts, ("cpu", "cpu"), "groups") as crew:
        first, second = crew.workers
        takes = [[_may_take(worker, number, work, "groups", 2) for number in work.todo] for worker in (first, second)]
        assert takes == [[True, False, False], [False, True, True]]
        assert all(_may_take(second, number, work, "groups", 1) for number in work.todo)  # alone, it does all
        assert all(_may_take(second, number, work, "cost", 2) for number in work.todo)


def test_sets_are_cut_for_the_hands(tiny_pipeline: PatchScalerPipeline) -> None:
    alone = Crew(tiny_pipeline.parts, ("cpu",))
    assert alone.workers == []
    assert alone.set_size(1000) == crew_module.SET_SIZE
    with Crew(tiny_pipeline.parts, ("cpu", "cpu")) as two:
        assert isinstance(two.workers[0], Worker)
        assert -(-441 // two.set_size(441)) == 2 * crew_module.SETS_PER_HAND
        assert two.set_size(1) == two.set_size(0) == 1


def test_the_pipeline_takes_workers(tiny_pipeline: PatchScalerPipeline, picture: Picture) -> None:
    alone = tiny_pipeline(picture, steps=(1, 1, 1), output_type="pt")
    shared = tiny_pipeline(picture, steps=(1, 1, 1), output_type="pt", workers=2)
    torch.testing.assert_close(shared.images, alone.images, atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match='split "fair"'):
        tiny_pipeline(picture, workers=2, split="fair")
