"""Patches of several pictures in one batch: each picture goes its way, and all meet where patches are sampled."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from patchscaler.engines.protocol import Engine
from patchscaler.options import Options
from patchscaler.pgs.groups import by_cost
from patchscaler.report import ProgressCallback, Report
from patchscaler.stages.executor import SET_SIZE, Executor
from patchscaler.stages.refine import PatchSet, Work, refine_patches

Result = TypeVar("Result")


@dataclass
class _Waiting:
    """A set of patches that a picture has handed in, and what came of it."""

    patches: PatchSet
    options: Options
    report: Report
    done: threading.Event = field(default_factory=threading.Event)
    refined: NDArray[np.float32] | None = None
    error: Exception | None = None


class SharedExecutor(Executor):
    """An executor for several pictures at once, with one copy of the networks.

    Each picture has a thread, of which one at a time computes: it restores its picture, hands in its patches and lets
    the next one go on. When all pictures wait, or a full set of patches does, all that were handed in are sampled
    together. A patch's result depends on its picture's seed and its place alone, so it is what the picture would have
    got alone.

    capacity  patches from which on the sampler doesn't wait for more; also the most prompted together
    overlap   files are read and written while others compute (`reading`, `aside`); False: in turn, where a process
              shall not use more than one core
    """

    def __init__(self, engine: Engine, capacity: int = SET_SIZE, overlap: bool = True) -> None:
        super().__init__(engine)
        self.capacity, self.overlap = capacity, overlap
        self._turn = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._computing = 0  # pictures that may still hand in patches before anybody must wait for them

    def run(self, tasks: Sequence[Callable[[], Result]]) -> list[Result | Exception]:
        """Do all tasks, one picture each, and return what each returned or raised."""
        outcomes: list[Any] = [None] * len(tasks)

        def life(number: int) -> None:
            self._turn.acquire()
            try:
                outcomes[number] = tasks[number]()
            except Exception as error:
                outcomes[number] = error
            finally:
                self._leave()

        self._computing = len(tasks)
        threads = [threading.Thread(target=life, args=(number,)) for number in range(len(tasks))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return outcomes

    def refine(self, work: Work, options: Options, report: Report, notify: ProgressCallback) -> None:
        """As `Executor.refine`, together with the other pictures' patches."""
        for number in work.todo:
            waiting = _Waiting(work.load(number), options, report)
            self._waiting.append(waiting)
            self._leave()
            waiting.done.wait()
            self._turn.acquire()
            if waiting.error is not None:
                raise waiting.error
            assert waiting.refined is not None
            work.keep(number, waiting.refined)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Around the reading of a picture's file: others compute, but wait for its patches."""
        if self.overlap:
            self._turn.release()
        try:
            yield
        finally:
            if self.overlap:
                self._turn.acquire()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Around work that needs no network and hands in no patches: nobody waits for it."""
        if self.overlap:
            self._leave()
        try:
            yield
        finally:
            if self.overlap:
                self._turn.acquire()
                self._computing += 1

    def _leave(self) -> None:
        """Give the turn away; whoever leaves last samples what was handed in, since nobody else would."""
        self._computing -= 1
        full = sum(len(each.patches.places) for each in self._waiting) >= self.capacity
        if self._waiting and (full or not self._computing):
            waiting, self._waiting = self._waiting, []
            self._computing += len(waiting)
            self._sample(waiting)
        self._turn.release()

    def _sample(self, waiting: list[_Waiting]) -> None:
        """All sets together; one after the other if that fails, so that only those fail that must."""
        try:
            self._together(waiting)
        except Exception as error:  # handed to the pictures, which say what becomes of it
            if len(waiting) == 1:
                waiting[0].error = error
            else:
                for each in waiting:
                    self._sample([each])
        for each in waiting:
            each.done.set()

    def _together(self, waiting: list[_Waiting]) -> None:
        options = replace(waiting[0].options, seed=0)
        assert all(replace(each.options, seed=0) == options for each in waiting)
        packed, ends = pack(waiting), np.cumsum([len(each.patches.places) for each in waiting])[:-1]
        order = by_cost(packed.groups, options.groups)
        refined = np.empty_like(packed.coarse)
        seconds: dict[str, float] = {}
        for first in range(0, len(order), self.capacity):
            rows = order[first : first + self.capacity]
            chosen = PatchSet(0, **{name: getattr(packed, name)[rows] for name in PatchSet._fields[1:]})
            refined[rows] = refine_patches(self.engine, chosen, options, lambda name: _timed(seconds, name))
        steps = np.asarray(options.groups.steps)[packed.groups]
        for each, patches, own in zip(waiting, np.split(refined, ends), np.split(steps, ends), strict=True):
            each.refined = patches
            for name, spent in seconds.items():
                each.report.add(name, spent * float(own.sum() / steps.sum()))


def pack(waiting: Sequence[_Waiting]) -> PatchSet:
    """The sets one after the other, each patch with its picture's seed."""
    sets = [each.patches._replace(seeds=np.full(len(each.patches.places), each.options.seed)) for each in waiting]
    return PatchSet(0, **{name: np.concatenate([getattr(own, name) for own in sets]) for name in PatchSet._fields[1:]})


def plan_chunks(patches: Sequence[int], capacity: int) -> list[list[int]]:
    """Which pictures go together, by their numbers of patches: none more than fit, but for one that is larger alone.

    First fit, the largest first, so that few places stay empty; no pictures make no chunks.
    """
    chunks: list[list[int]] = []
    left: list[int] = []
    for number in sorted(range(len(patches)), key=lambda number: -patches[number]):
        own = patches[number]
        place = next((index for index, room in enumerate(left) if room >= own), len(chunks))
        if place == len(chunks):
            chunks.append([])
            left.append(capacity)
        chunks[place].append(number)
        left[place] -= own
    return [sorted(chunk) for chunk in chunks]


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started
