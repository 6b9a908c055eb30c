"""Who does the work: one copy of the networks in this process, and worker processes if they were asked for."""

from collections.abc import Callable, Sequence

from torch import Tensor

from patchscaler.inference.parts import Parts
from patchscaler.inference.sampling import PatchSet, Refiner
from patchscaler.inference.settings import Settings
from patchscaler.report import Progress, ProgressCallback, Report


class Crew:
    """The parts in this process, which restore and finish, and who prompts and samples: here this process too."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.refiner = Refiner(parts)
        self.hands = 1

    def refine(
        self,
        todo: Sequence[int],
        costs: Sequence[int],
        sizes: Sequence[int],
        load: Callable[[int], PatchSet],
        keep: Callable[[int, Tensor], None],
        settings: Settings,
        report: Report,
        notify: ProgressCallback,
    ) -> None:
        """Prompts and samples the sets of patches `todo`.

        costs, sizes  patch-steps and patches of every set, those that are done too
        load, keep    fetch a set, and put away its refined patches
        """
        steps, prompted = sum(costs) - sum(costs[i] for i in todo), sum(sizes) - sum(sizes[i] for i in todo)
        for number in todo:
            refined = self.refiner(
                load(number),
                settings,
                report.stage,
                lambda done, before=prompted: notify(Progress("prompt", before + done, sum(sizes))),
                lambda done, before=steps: notify(Progress("sample", before + done, sum(costs))),
            )
            keep(number, refined)
            steps, prompted = steps + costs[number], prompted + sizes[number]
