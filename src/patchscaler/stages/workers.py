"""Worker processes: each has its own copy of the networks, takes sets of patches and gives them back refined.

They are spawned, not forked, as CUDA and OpenMP demand, and know nothing of the picture: noise is keyed by the place,
so whoever refines a patch gets the same result.
"""

import importlib
import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, NamedTuple

from patchscaler.report import Progress, ProgressCallback

if TYPE_CHECKING:
    from patchscaler.engines.protocol import Engine
    from patchscaler.options import Options
    from patchscaler.stages.refine import PatchSet, Work


class Lost(NamedTuple):
    """What share_out could not do: one line per dead worker, and the sets that nobody is left for."""

    messages: list[str]
    left: list[int]


class Worker:
    """A process on `device`, one of `count` that share the processor, started at once, so that its imports cost nobody
    time."""

    def __init__(self, number: int, device: str, engine: "Engine", count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.name = f"worker {number + 1} ({device})"
        self._threads = max(1, engine.threads // count)
        module = type(engine).__module__
        self.process = context.Process(target=_work, args=(theirs, module, self._threads), daemon=True)
        self.process.start()
        theirs.close()  # so that its end is noticed here
        self.busy: int | None = None
        self.first = number == 0
        self._engine: Engine | None = engine
        self._device = device

    def take(self, task: "tuple[PatchSet, Options]") -> None:
        """Sends a set, and the networks before the first one. Raises OSError where nobody listens any more."""
        if self._engine is not None:
            self.connection.send_bytes(pickle.dumps(self._engine.sampler(self._device, self._threads)))
            self._engine = None
        self.connection.send(task)

    def close(self) -> None:
        """Ends the process."""
        try:
            if self._engine is None and self.busy is None:
                self.connection.send(None)
                self.process.join(5)
        except OSError:  # it is gone
            pass
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()

    def how_it_ended(self) -> str:
        self.process.join(5)
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return f"exit code {code}"


def share_out(
    workers: list[Worker],
    work: "Work",
    options: "Options",
    split: str,
    counts: "Counts",
    on_loss: Callable[[str], None],
) -> Lost:
    """Gives every free worker the set with the most work left that it may take, until all are done.

    Dead workers are taken off `workers`. Raises RuntimeError with a worker's own message where its work failed.
    """
    waiting = sorted(work.todo, key=lambda number: -work.costs[number])
    messages: list[str] = []

    def hand_out(worker: Worker) -> None:
        number = next((n for n in waiting if _may_take(worker, n, work, split, len(workers))), None)
        worker.busy = number
        if number is not None:
            waiting.remove(number)
            worker.take((work.load(number), options))

    def lose(worker: Worker) -> None:
        workers.remove(worker)
        if worker.busy is not None:
            waiting.insert(0, worker.busy)
            counts.forget(worker.busy)
        message = f"{worker.name} died ({worker.how_it_ended()}); its patches are done by the others"
        messages.append(message)
        on_loss(message)

    for worker in list(workers):
        _try(worker, hand_out, lose)
    while workers and (waiting or any(worker.busy is not None for worker in workers)):
        idle = [worker for worker in workers if worker.busy is None]
        for worker in idle:  # one that died, or that may take what a dead one has left
            _try(worker, hand_out, lose)
        by_connection: dict[Any, Worker] = {worker.connection: worker for worker in workers}
        for ready in wait(by_connection):
            _try(by_connection[ready], lambda worker: _answer(worker, work, counts), lose)
    return Lost(messages, waiting)


def _try(worker: Worker, action: Callable[[Worker], None], lose: Callable[[Worker], None]) -> None:
    try:
        action(worker)
    except (EOFError, OSError):  # the pipe has no other end any more
        lose(worker)


def _may_take(worker: Worker, number: int, work: "Work", split: str, workers: int) -> bool:
    """By the paper's split, the first worker takes hard sets and no others; a worker that is alone takes all."""
    return split == "cost" or workers == 1 or worker.first == (number in work.hardest)


def _answer(worker: Worker, work: "Work", counts: "Counts") -> None:
    """Takes one message of a worker: ("prompt" or "sample", done), ("done", values) or ("failed", reason)."""
    kind, value = worker.connection.recv()
    assert worker.busy is not None
    if kind == "failed":
        raise RuntimeError(f"{worker.name}: {value}")
    if kind == "done":
        work.keep(worker.busy, value)
        worker.busy = None
        return
    counts.count(kind, worker.busy, value)


class Counts:
    """Progress with all sets together, whoever does them, never falling."""

    def __init__(self, work: "Work", notify: ProgressCallback) -> None:
        units = {"prompt": work.sizes, "sample": work.costs}
        self.notify, self.totals = notify, {stage: sum(own) for stage, own in units.items()}
        self.before = {s: self.totals[s] - sum(own[number] for number in work.todo) for s, own in units.items()}
        self.done: dict[str, dict[int, int]] = {"prompt": {}, "sample": {}}
        self.shown = {"prompt": -1, "sample": -1}

    def count(self, stage: str, number: int, done: int) -> None:
        self.done[stage][number] = done
        total = self.before[stage] + sum(self.done[stage].values())
        if total > self.shown[stage]:
            self.shown[stage] = total
            self.notify(Progress(stage, total, self.totals[stage]))

    def forget(self, number: int) -> None:
        for counts in self.done.values():
            counts.pop(number, None)


def _work(connection: Connection, module: str, threads: int) -> None:
    """A worker's life; `module` of its engine."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process decides
    os.environ["OMP_NUM_THREADS"] = str(threads)
    from patchscaler.engines.process import work_alone

    work_alone(module)  # workers do nothing but sample
    importlib.import_module(module)
    from patchscaler.stages.refine import refine_patches

    try:
        engine = pickle.loads(connection.recv_bytes())()
        while (task := connection.recv()) is not None:
            try:
                refined = refine_patches(
                    engine,
                    *task,
                    on_prompt=lambda done: connection.send(("prompt", done)),
                    on_step=lambda done: connection.send(("sample", done)),
                )
                connection.send(("done", refined))
            except (RuntimeError, MemoryError) as error:  # out of memory, above all
                connection.send(("failed", str(error) or type(error).__name__))
    except (EOFError, OSError):  # the first process is gone
        return
