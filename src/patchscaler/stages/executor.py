"""Who refines the patches: this process with its engine, and worker processes if they were asked for."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchscaler.engines.protocol import Engine
from patchscaler.errors import ConfigError
from patchscaler.options import Options
from patchscaler.pgs.groups import count_steps
from patchscaler.report import ProgressCallback, Report
from patchscaler.stages.refine import Patches, Work, refine_patches
from patchscaler.stages.workers import Counts, Worker, share_out

SPLITS = ("cost", "groups")
# Patches prompted and sampled together at most: their texture keys and values take about 1 MiB each (`tiny`).
SET_SIZE = 256
SETS_PER_WORKER = 4  # with fewer, the last set keeps one worker busy while the others wait


class Executor:
    """Refines sets of patches with one engine, or with one worker process per device.

    engine   of this process
    devices  of the workers, such as ("cpu", "cpu") or ("cuda:0", "cuda:1"); fewer than two: no workers. Workers on the
             CPU share its threads among themselves
    split    "cost": whoever is free takes the set of patches with the most work left. "groups", the paper's: the first
             worker takes the hard patches, the others the rest
    on_loss  told of a worker that died; the others do its patches, in the end this process

    Ends its workers when closed. Raises ConfigError for another split, and for workers where networks can't be copied.
    """

    def __init__(
        self,
        engine: Engine,
        devices: Sequence[str] = (),
        split: str = "cost",
        on_loss: Callable[[str], None] = lambda message: None,
    ) -> None:
        if split not in SPLITS:
            raise ConfigError(f'split "{split}": choose {" or ".join(SPLITS)}')
        if len(devices) > 1 and not engine.copies:
            raise ConfigError("workers need plain copies of the networks: not offloaded, quantized, prompted by text")
        self.engine, self.split, self.on_loss = engine, split, on_loss
        count = len(devices) if len(devices) > 1 else 0
        self.workers = [Worker(number, device, engine, count) for number, device in enumerate(devices[:count])]

    def close(self) -> None:
        for worker in self.workers:
            worker.close()

    @property
    def count(self) -> int:
        """Of the processes that share the patches."""
        return max(1, len(self.workers))

    def aside(self) -> AbstractContextManager[Any]:
        """Around work that needs no network, such as writing a file: nobody else waits for this process."""
        return nullcontext()

    def set_size(self, patches: int) -> int:
        """Patches per set, so that there is enough to share out."""
        return max(1, min(SET_SIZE, -(-patches // (SETS_PER_WORKER * self.count)) if self.count > 1 else SET_SIZE))

    def refine(self, work: Work, options: Options, report: Report, notify: ProgressCallback) -> None:
        """Prompts and samples all sets of `work` that are still to be done."""
        todo, counts = list(work.todo), Counts(work, notify)
        if self.workers and todo:
            with report.stage("sample"):
                lost = share_out(self.workers, work, options, self.split, counts, self.on_loss)
            report.lost_workers += lost.messages
            todo = lost.left
        for number in todo:
            refined = refine_patches(
                self.engine,
                work.load(number),
                options,
                report.stage,
                partial(counts.count, "prompt", number),
                partial(counts.count, "sample", number),
                work.on_clean and partial(work.on_clean, number),
                work.on_step_end,
            )
            work.keep(number, refined)


def work_on(patches: Patches, size: int, previews: Any) -> Work:
    """The patches that have steps, in sets of `size`, those with most steps first; done ones are the spill's notes.

    previews  Previews to show whenever patches are refined, or None
    """
    order, groups, spill = patches.order, patches.options.groups, patches.task.spill
    spill.note(set_size=size)  # a resumed run must cut the same sets, whoever does them
    sets = [order[first : first + size] for first in range(0, len(order), size)]
    done = set(spill.notes.get("sampled", []))
    followed: set[int] = set()  # whose previews come batch by batch

    def on_clean(number: int, rows: NDArray[np.int64], clean: NDArray[np.float32]) -> None:
        followed.add(number)
        previews.show(sets[number][rows].tolist(), clean)

    def keep(number: int, refined: NDArray[np.float32]) -> None:
        patches.keep(number * size, refined)
        done.add(number)
        spill.note(sampled=sorted(done))
        if previews and number not in followed:
            previews.show(sets[number].tolist(), refined)

    if previews:
        for index in (index for number in done for index in sets[number].tolist()):  # of an earlier run
            if (latents := patches.latents(index)) is not None:
                previews.clean[index] = latents
        previews.show()
    hardest = len(groups.steps) - 1
    return Work(
        todo=[number for number in range(len(sets)) if number not in done],
        costs=[count_steps(patches.groups[chosen], groups)["patch_steps"] for chosen in sets],
        sizes=[len(chosen) for chosen in sets],
        hardest=frozenset(number for number, own in enumerate(sets) if bool((patches.groups[own] == hardest).any())),
        load=lambda number: patches.take(number, sets[number]),
        keep=keep,
        on_clean=on_clean if previews else None,
        on_step_end=patches.task.on_step_end,
    )
