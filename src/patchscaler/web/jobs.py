"""Jobs and their queue: bounded, worked off in order by a few threads, every file gone when the job goes."""

import logging
import secrets
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from patchscaler.errors import PatchScalerError
from patchscaler.imaging.geometry import Size
from patchscaler.stages.sizes import target_size
from patchscaler.web.settings import STEPS, Limits, Options

log = logging.getLogger(__name__)

SWEEP_SECONDS = 2.0
# Below this part of a job its own pace says little, and the pace of earlier jobs says more.
EARLY = 0.1
NO_SIZE = Size(0, 0)


class State(str, Enum):
    uploading = "uploading"
    queued = "queued"
    running = "running"
    done = "done"
    failed = "failed"
    cancelled = "cancelled"


FINISHED = frozenset({State.done, State.failed, State.cancelled})


class JobStoppedError(PatchScalerError):
    """A job was cancelled or took too long."""


class QueueFullError(PatchScalerError):
    """As many jobs as the queue may hold are not finished."""


@dataclass(eq=False)
class Job:
    """One picture on its way. Times are seconds of time.monotonic(); a client only ever sees differences of them.

    folder    holds everything of the job: the upload ("input"), its small picture, previews and the result
    fraction  of the work that is done, in [0, 1]
    preview   counts the previews made; 0: none yet
    patches   names, groups and boxes of the patches, once they are known
    """

    id: str
    options: Options
    folder: Path
    created: float
    input_size: Size = NO_SIZE
    state: State = State.uploading
    stage: str = ""
    fraction: float = 0.0
    started: float = 0.0
    finished: float = 0.0
    error: str | None = None
    preview: int = 0
    patches: dict[str, Any] | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def output_size(self) -> Size:
        return target_size(self.input_size, scale=self.options.scale)

    @property
    def input(self) -> Path:
        return self.folder / "input"

    @property
    def thumbnail(self) -> Path:
        return self.folder / "input.webp"

    @property
    def preview_file(self) -> Path:
        return self.folder / "preview.webp"

    @property
    def result(self) -> Path:
        return self.folder / f"result.{self.options.format.value}"

    @property
    def work(self) -> float:
        """About proportional to the time the job takes."""
        steps = STEPS[self.options.quality]
        return self.input_size.height * self.input_size.width * (4.0 + sum(steps) / len(steps))

    def check(self, limits: Limits) -> None:
        """Raises JobStoppedError where the job should not go on."""
        if self.stop.is_set():
            raise JobStoppedError("cancelled")
        if time.monotonic() - self.started > limits.job_seconds:
            minutes = f"{limits.job_seconds / 60:g} minutes"
            raise JobStoppedError(f"took longer than {minutes}; use a smaller picture or a faster quality")


class JobQueue:
    """First come, first served. `run` does one job in a worker's thread and raises what went wrong.

    All files lie below one temporary folder that only this user may enter; `close` removes it. Setting `closing`, which
    a signal handler may do, stops all jobs.
    """

    def __init__(self, run: Callable[[Job], None], limits: Limits, workers: int = 1) -> None:
        self.limits = limits
        self._run = run
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()  # guards everything here
        self._pace = 0.0  # seconds per unit of work, of the jobs so far
        self._root = Path(tempfile.mkdtemp(prefix="patchscaler-"))
        self.closing = threading.Event()
        self._workers = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]
        self._sweeper = threading.Thread(target=self._sweep_on, daemon=True)
        for thread in (*self._workers, self._sweeper):
            thread.start()

    def admit(self, options: Options) -> Job:
        """A place in the queue for a picture that is about to arrive; raises QueueFullError."""
        with self._changed:
            unfinished = self.unfinished()
            if unfinished >= self.limits.queue or self.closing.is_set():
                raise QueueFullError(f"{unfinished} pictures are being worked on already; try again in a while")
            name = secrets.token_urlsafe(16)
            job = Job(name, options, self._root / name, created=time.monotonic())
            self._jobs[name] = job
        job.folder.mkdir()
        return job

    def unfinished(self) -> int:
        with self._changed:
            return sum(job.state not in FINISHED for job in self._jobs.values())

    def submit(self, job: Job) -> None:
        """The picture has arrived: the job waits for its turn."""
        with self._changed:
            job.state = State.queued
            self._waiting.append(job)
            self._changed.notify()

    def find(self, name: str) -> Job:
        """Raises KeyError."""
        with self._changed:
            job = self._jobs[name]
        if job.state is State.uploading:
            raise KeyError(name)
        return job

    def remove(self, job: Job) -> None:
        """Forget a job and its files, cancelling it if need be; a running one stops after its present batch."""
        with self._changed:
            self._jobs.pop(job.id, None)
            job.stop.set()
            if job in self._waiting:
                self._waiting.remove(job)
            if job.state is State.running:
                return  # its worker removes the folder
            if job.state is not State.done:
                job.state = State.cancelled
        shutil.rmtree(job.folder, ignore_errors=True)

    def ahead(self, job: Job) -> int:
        """How many jobs run or wait before this one; 0 unless it waits."""
        with self._changed:
            if job not in self._waiting:
                return 0
            running = sum(other.state is State.running for other in self._jobs.values())
            return running + self._waiting.index(job)

    def seconds_left(self, job: Job) -> float | None:
        """Until the job is done, about; None where nothing is known yet."""
        with self._changed:
            if job.state is State.running:
                return self._running_left(job)
            if job.state is not State.queued or not self._pace or job not in self._waiting:
                return None
            before = [self._waiting[index] for index in range(self._waiting.index(job))]
            left = [self._running_left(other) for other in self._jobs.values() if other.state is State.running]
            work = self._pace * sum(other.work for other in before) + sum(seconds or 0.0 for seconds in left)
            return work / len(self._workers) + self._pace * job.work

    def _running_left(self, job: Job) -> float | None:
        elapsed = time.monotonic() - job.started
        if job.fraction >= EARLY:
            return elapsed / job.fraction * (1.0 - job.fraction)
        return max(self._pace * job.work - elapsed, 0.0) if self._pace else None

    def close(self) -> None:
        """Stop all jobs and remove all files; waits for the running ones to notice."""
        self.closing.set()
        for thread in (*self._workers, self._sweeper):
            thread.join(timeout=30)
        shutil.rmtree(self._root, ignore_errors=True)

    def _stop_all(self) -> None:
        with self._changed:
            for job in self._jobs.values():
                job.stop.set()
                if job.state in (State.uploading, State.queued):
                    job.state = State.cancelled
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self.closing.is_set())
                if self.closing.is_set():
                    return
                job = self._waiting.popleft()
                job.started, job.state = time.monotonic(), State.running
            state, error = self._do(job)
            with self._changed:
                job.finished = time.monotonic()
                if state is State.done:
                    pace = (job.finished - job.started) / job.work
                    self._pace = pace if not self._pace else 0.7 * self._pace + 0.3 * pace
                job.error, job.state = error, state
                forgotten = job.id not in self._jobs
            if forgotten:
                shutil.rmtree(job.folder, ignore_errors=True)

    def _do(self, job: Job) -> tuple[State, str | None]:
        """Run a job; whatever happens in it, the worker goes on with the next."""
        try:
            job.check(self.limits)
            self._run(job)
            return State.done, None
        except PatchScalerError as error:
            if job.stop.is_set():
                return State.cancelled, None
            return State.failed, str(error).replace(f"{job.input}: ", "")  # the client knows no path of ours
        except MemoryError:
            return State.failed, "not enough memory on the server; use a smaller picture"
        except Exception as error:
            log.exception("a job failed")
            if "can't allocate memory" in str(error) or "out of memory" in str(error):
                return State.failed, "not enough memory on the server; use a smaller picture"
            return State.failed, "an error in the server, which it has logged"
        finally:
            job.input.unlink(missing_ok=True)

    def _sweep_on(self) -> None:
        while not self.closing.wait(min(SWEEP_SECONDS, self.limits.keep_seconds / 2)):
            self.sweep()
        self._stop_all()

    def sweep(self) -> None:
        """Remove jobs whose time is over, and the oldest ones where results take too much room."""
        with self._changed:
            finished = sorted((job for job in self._jobs.values() if job.state in FINISHED), key=lambda j: j.finished)
        now, room = time.monotonic(), self.limits.keep_bytes
        for job in reversed(finished):
            room -= sum(_bytes(file) for file in (job.result, job.preview_file))
            if room < 0 or now - job.finished > self.limits.keep_seconds:
                self.remove(job)


def _bytes(file: Path) -> int:
    """Size of a file; 0 where there is none, or where its job is removed at this very moment."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
