"""Who does the work: one copy of the networks in this process, and worker processes if they were asked for."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from patchscaler.diffusion.pgs import StepEnd
from patchscaler.errors import ConfigError
from patchscaler.inference.parts import SAMPLING_PARTS, Parts
from patchscaler.inference.sampling import PatchSet, Refiner
from patchscaler.inference.settings import Settings
from patchscaler.inference.workers import Worker, share_out
from patchscaler.models.open_weights import weights_lie_open
from patchscaler.report import Progress, ProgressCallback, Report

SPLITS = ("cost", "groups")
# Patches prompted and sampled together at most: their texture keys and values take about 1 MiB each (`tiny`).
SET_SIZE = 256
SETS_PER_HAND = 4  # with fewer, the last set keeps one worker busy while the others wait


class Work(NamedTuple):
    """Sets of patches to be prompted and sampled.

    todo          numbers of the sets that are still to be done
    costs, sizes  patch-steps and patches of every set, those that are done too
    hardest       sets with patches of the hardest group
    load, keep    fetch a set, and put away its refined patches
    on_clean      called while a set is sampled in this process with its number, places in it and their clean latents
    on_step_end   as in `pgs.sample`, of every set that is sampled in this process
    """

    todo: Sequence[int]
    costs: Sequence[int]
    sizes: Sequence[int]
    hardest: frozenset[int]
    load: Callable[[int], PatchSet]
    keep: Callable[[int, Tensor], None]
    on_clean: Callable[[int, Tensor, Tensor], None] | None = None
    on_step_end: StepEnd | None = None


class Crew:
    """This process, which restores and finishes, and whoever prompts and samples: itself, or one worker per device.

    parts    on the device of this process
    devices  of the workers, such as ("cpu", "cpu") or ("cuda:0", "cuda:1"); fewer than two: no workers. Workers on the
             CPU share its threads among themselves
    split    "cost": whoever is free takes the set of patches with the most work left. "groups", the paper's: the first
             worker takes the hard patches, the others the rest
    on_loss  told of a worker that died; the others do its patches, in the end this process

    Ends its workers when closed. Raises ConfigError for another split, and for workers where networks can't be copied.
    """

    def __init__(
        self,
        parts: Parts,
        devices: Sequence[str] = (),
        split: str = "cost",
        on_loss: Callable[[str], None] = lambda message: None,
    ) -> None:
        if split not in SPLITS:
            raise ConfigError(f'split "{split}": choose {" or ".join(SPLITS)}')
        if len(devices) > 1 and not all(weights_lie_open(getattr(parts, name)) for name in SAMPLING_PARTS):
            raise ConfigError("workers need plain copies of the networks: not with offloaded or quantized ones")
        self.parts, self.split, self.on_loss = parts, split, on_loss
        self.refiner = Refiner(parts)
        count = len(devices) if len(devices) > 1 else 0
        threads = max(1, torch.get_num_threads() // max(count, 1))
        self.workers = [Worker(number, device, parts, threads) for number, device in enumerate(devices[:count])]

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *error: Any) -> None:
        for worker in self.workers:
            worker.close()

    @property
    def hands(self) -> int:
        return max(1, len(self.workers))

    def aside(self) -> AbstractContextManager[Any]:
        """Around work that needs no network, such as writing a file: nobody else waits for this process."""
        return nullcontext()

    def set_size(self, patches: int) -> int:
        """Patches per set, so that there is enough to share out."""
        return max(1, min(SET_SIZE, -(-patches // (SETS_PER_HAND * self.hands)) if self.hands > 1 else SET_SIZE))

    def refine(self, work: Work, settings: Settings, report: Report, notify: ProgressCallback) -> None:
        """Prompts and samples all sets of `work` that are still to be done."""
        left = list(work.todo)
        if self.workers and left:
            with report.stage("sample"):
                lost = share_out(self.workers, work, settings, self.split, notify, self.on_loss)
            report.lost_workers += lost.messages
            left = lost.left
        self._alone(left, work, settings, report, notify)

    def _alone(
        self, todo: Sequence[int], work: Work, settings: Settings, report: Report, notify: ProgressCallback
    ) -> None:
        steps = sum(work.costs) - sum(work.costs[number] for number in todo)
        prompted = sum(work.sizes) - sum(work.sizes[number] for number in todo)
        on_clean = work.on_clean
        for number in todo:
            refined = self.refiner(
                work.load(number),
                settings,
                report.stage,
                lambda done, before=prompted: notify(Progress("prompt", before + done, sum(work.sizes))),
                lambda done, before=steps: notify(Progress("sample", before + done, sum(work.costs))),
                on_clean and (lambda index, latents, number=number: on_clean(number, index, latents)),
                work.on_step_end,
            )
            work.keep(number, refined)
            steps, prompted = steps + work.costs[number], prompted + work.sizes[number]
