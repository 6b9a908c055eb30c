"""Laws of the job queue: bounded, in order, nothing lost, whatever a job does, and nothing left."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchscaler.errors import ConfigError, ImageReadError
from patchscaler.imaging.geometry import Size
from patchscaler.web.jobs import FINISHED, Job, JobQueue, QueueFullError, State
from patchscaler.web.settings import Limits, Options

law = settings(deadline=None, max_examples=30)


@contextmanager
def queue_of(run: Callable[[Job], None], workers: int = 1, **limits: float) -> Iterator[JobQueue]:
    queue = JobQueue(run, Limits(**limits), workers)
    try:
        yield queue
    finally:
        queue.close()


def arrived(queue: JobQueue, content: bytes = b"picture") -> Job:
    job = queue.admit(Options())
    job.input.write_bytes(content)
    job.input_size = Size(4, 5)
    queue.submit(job)
    return job


def wait(*jobs: Job) -> None:
    deadline = time.monotonic() + 30
    while not all(job.state in FINISHED for job in jobs):
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_whatever_a_job_raises_the_next_one_runs() -> None:
    """The reason is told without the server's paths; only what nobody foresaw is kept for the log."""

    def run(job: Job) -> None:
        error = {
            b"damaged": ImageReadError(f"{job.input}: damaged"),
            b"memory": MemoryError(),
            b"torch": RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"),
            b"bug": KeyError(str(job.input)),
        }.get(job.input.read_bytes())
        if error:
            raise error
        job.result.write_bytes(b"result")

    with queue_of(run) as queue:
        jobs = [arrived(queue, content) for content in (b"damaged", b"memory", b"torch", b"bug", b"good")]
        wait(*jobs)
        assert [job.state for job in jobs] == [State.failed] * 4 + [State.done]
        errors = [str(job.error) for job in jobs]
        assert errors[0] == "damaged"
        assert all("not enough memory" in error for error in errors[1:3])
        assert not any(str(job.folder) in error for job, error in zip(jobs, errors, strict=True))
        assert not any(job.input.exists() for job in jobs)


def test_one_worker_takes_them_in_order_and_tells_how_many_are_ahead() -> None:
    go, order = threading.Semaphore(0), []

    def run(job: Job) -> None:
        assert go.acquire(timeout=30)
        order.append(job)

    with queue_of(run) as queue:
        jobs = [arrived(queue) for _ in range(6)]
        while jobs[0].state is not State.running:
            time.sleep(0.002)
        assert [queue.ahead(job) for job in jobs] == [0, 1, 2, 3, 4, 5]
        assert queue.seconds_left(jobs[3]) is None  # nothing is known of the pace yet
        queue.remove(jobs[3])
        assert [queue.ahead(job) for job in jobs] == [0, 1, 2, 0, 3, 4]
        go.release()
        wait(jobs[0])
        left = [queue.seconds_left(job) for job in (jobs[2], jobs[4], jobs[5])]
        assert None not in left
        assert left == sorted(left)
        go.release(9)
        wait(*jobs)
        assert order == [job for job in jobs if job is not jobs[3]]
        assert jobs[3].state is State.cancelled


@law
@given(st.lists(st.sampled_from(["admit", "submit", "remove"]), max_size=30), st.integers(1, 4), st.integers(1, 3))
def test_never_more_than_allowed_and_none_lost(actions: list[str], size: int, workers: int) -> None:
    with queue_of(lambda job: job.result.write_bytes(b"r"), workers, queue=size) as queue:
        arriving: list[Job] = []
        submitted: list[Job] = []
        for action in actions:
            if action == "admit":
                try:
                    arriving.append(queue.admit(Options()))
                except QueueFullError:
                    assert queue.unfinished() >= len(arriving)
            elif arriving and action == "submit":
                job = arriving.pop()
                with pytest.raises(KeyError):
                    queue.find(job.id)  # not before its picture is there
                job.input.write_bytes(b"p")
                job.input_size = Size(1, 1)
                queue.submit(job)
                submitted.append(job)
            elif arriving:
                job = arriving.pop(0)
                queue.remove(job)
                assert not job.folder.exists()
            assert queue.unfinished() <= size
        wait(*submitted)
        assert all(job.state is State.done and queue.find(job.id) is job for job in submitted)
        root = queue.admit(Options()).folder.parent if queue.unfinished() < size else None
    assert root is None or not root.exists()


def test_a_running_job_that_is_removed_stops_and_leaves_nothing() -> None:
    def run(job: Job) -> None:
        while True:
            job.check(queue.limits)
            (job.folder / "preview.webp").write_bytes(b"p")

    with queue_of(run) as queue:
        job = arrived(queue)
        while job.state is not State.running:
            time.sleep(0.002)
        queue.remove(job)
        wait(job)
        assert job.state is State.cancelled
        deadline = time.monotonic() + 30
        while job.folder.exists():
            assert time.monotonic() < deadline
        with pytest.raises(KeyError):
            queue.find(job.id)


def test_a_job_that_takes_too_long_fails() -> None:
    def run(job: Job) -> None:
        while True:
            job.check(queue.limits)

    with queue_of(run, job_seconds=0.05) as queue:
        job = arrived(queue)
        wait(job)
        assert job.state is State.failed
        assert "took longer than" in str(job.error)


def test_results_expire_by_age_and_the_oldest_by_room() -> None:
    with queue_of(lambda job: job.result.write_bytes(bytes(100)), keep_bytes=250) as queue:
        jobs = [arrived(queue) for _ in range(4)]
        wait(*jobs)
        queue.sweep()
        assert [job.result.exists() for job in jobs] == [False, False, True, True]
    with queue_of(lambda job: job.result.write_bytes(b"r"), keep_seconds=0.2) as queue:
        job = arrived(queue)
        deadline = time.monotonic() + 30
        while job.folder.exists():  # by the queue's own sweeper
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_closing_stops_everything_and_removes_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def run(job: Job) -> None:
        while True:
            job.check(queue.limits)
            time.sleep(0.001)

    queue = JobQueue(run, Limits())
    jobs = [arrived(queue) for _ in range(3)]
    (folder,) = tmp_path.iterdir()
    assert folder.stat().st_mode & 0o077 == 0  # for this user only
    queue.close()
    assert {job.state for job in jobs} == {State.cancelled}
    assert not list(tmp_path.iterdir())
    with pytest.raises(QueueFullError):
        queue.admit(Options())


def test_limits_are_positive() -> None:
    with pytest.raises(ConfigError, match="queue 0"):
        Limits(queue=0)
