"""Several processes share the patches: the result is one process's, also when some of them die."""

import os
import signal

import numpy as np
import pytest

from arrays import assert_close, uniform
from patchscaler import Options, PatchScalerPipeline, Result, Upscaler
from patchscaler.engines.torch import TorchEngine
from patchscaler.errors import ConfigError
from patchscaler.imaging.picture import Picture
from patchscaler.report import Progress
from patchscaler.stages import executor as executor_module
from patchscaler.stages.executor import Executor
from patchscaler.stages.refine import Work
from patchscaler.stages.workers import Worker, _may_take

OPTIONS = Options(steps=(1, 2, 3), gammas=(0.96, 0.9545), batch_size=2)
TWO = ("cpu", "cpu")


@pytest.fixture(scope="module")
def engine(tiny_pipeline: PatchScalerPipeline) -> TorchEngine:
    return TorchEngine(tiny_pipeline.parts)


@pytest.fixture(scope="module")
def picture() -> Picture:
    smooth = np.tile(np.linspace(0, 1, 90, dtype=np.float32), (1, 3, 40, 1))
    smooth[..., 45:] = uniform(1, 3, 40, 45)
    return Picture(smooth)


@pytest.fixture(scope="module")
def expected(engine: TorchEngine, picture: Picture) -> np.ndarray:
    return Upscaler(engine=engine)(picture, options=OPTIONS).pixels


@pytest.mark.parametrize("split", ["cost", "groups"])
def test_two_workers_do_as_one(engine: TorchEngine, picture: Picture, expected: np.ndarray, split: str) -> None:
    seen: list[Progress] = []
    with Upscaler(engine=engine, workers=TWO, split=split) as upscaler:
        found = upscaler(picture, options=OPTIONS, on_progress=seen.append)
        again = upscaler(picture, options=OPTIONS)  # the same workers do the next picture
    report = found.report
    assert_close(found.pixels, expected, atol=1e-5, rtol=0)
    assert np.array_equal(found.pixels, again.pixels)
    assert report.lost_workers == []
    assert not any(worker.process.is_alive() for worker in upscaler.executor.workers)
    for stage, total in (("prompt", sum(report.patches.values())), ("sample", report.patch_steps)):
        done = [progress.done for progress in seen if progress.stage == stage]
        assert done == sorted(set(done))
        assert done[-1] == total == next(progress.total for progress in seen if progress.stage == stage)


@pytest.mark.parametrize("victims", [1, 2])
def test_a_killed_worker_is_reported_and_its_patches_are_done(
    engine: TorchEngine,
    picture: Picture,
    expected: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    victims: int,
) -> None:
    monkeypatch.setattr(executor_module, "SETS_PER_WORKER", 2)
    messages: list[str] = []
    with Upscaler(engine=engine, workers=TWO, on_loss=messages.append) as upscaler:
        doomed = upscaler.executor.workers[:victims]

        def kill(progress: Progress) -> None:
            if progress.stage == "sample":
                for worker in doomed:
                    os.kill(worker.process.pid, signal.SIGKILL)
                doomed.clear()

        found = upscaler(picture, options=OPTIONS, on_progress=kill)
    assert_close(found.pixels, expected, atol=1e-5, rtol=0)
    assert len(messages) == victims
    assert found.report.lost_workers == messages
    assert all("(cpu) died (killed by SIGKILL); its patches are done by the others" in text for text in messages)


def test_a_worker_that_is_dead_before_the_work(engine: TorchEngine, picture: Picture, expected: np.ndarray) -> None:
    with Upscaler(engine=engine, workers=TWO) as upscaler:
        upscaler.executor.workers[1].process.kill()
        upscaler.executor.workers[1].process.join()
        found: Result = upscaler(picture, options=OPTIONS)
    assert_close(found.pixels, expected, atol=1e-5, rtol=0)
    assert len(found.report.lost_workers) == 1


def test_the_papers_split(engine: TorchEngine) -> None:
    work = Work([0, 1, 2], [9, 4, 4], [3, 2, 2], frozenset({0}), lambda n: None, lambda n, v: None)
    with Upscaler(engine=engine, workers=TWO, split="groups") as upscaler:
        first, second = upscaler.executor.workers
        takes = [[_may_take(worker, number, work, "groups", 2) for number in work.todo] for worker in (first, second)]
        assert takes == [[True, False, False], [False, True, True]]
        assert all(_may_take(second, number, work, "groups", 1) for number in work.todo)  # alone, it does all
        assert all(_may_take(second, number, work, "cost", 2) for number in work.todo)


def test_sets_are_cut_for_the_workers(engine: TorchEngine) -> None:
    alone = Executor(engine, ("cpu",))
    assert alone.workers == []
    assert alone.set_size(1000) == executor_module.SET_SIZE
    two = Executor(engine, TWO)
    assert isinstance(two.workers[0], Worker)
    assert -(-441 // two.set_size(441)) == 2 * executor_module.SETS_PER_WORKER
    assert two.set_size(1) == two.set_size(0) == 1
    two.close()


def test_the_pipeline_takes_workers(tiny_pipeline: PatchScalerPipeline, picture: Picture) -> None:
    alone = tiny_pipeline(picture, steps=(1, 1, 1), output_type="pt")
    shared = tiny_pipeline(picture, steps=(1, 1, 1), output_type="pt", workers=2)
    assert_close(shared.images, alone.images, atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match='split "fair"'):
        tiny_pipeline(picture, workers=2, split="fair")
