"""What one call of the pipeline did: time and memory of each stage, patches and steps of each group."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchscaler.pgs.groups import GroupConfig


class Progress(NamedTuple):
    """done of total units of a stage: patch-steps in "sample", tiles or 1 elsewhere."""

    stage: str
    done: int
    total: int


class Preview(NamedTuple):
    """The picture as it stands: the coarse one after "restore", then with the patches as far as they are refined.

    draw         draw() -> (1,3,H,W) in [0,1], the enlarged picture; takes about as long as the stages "decode" and
                 "colour", so the callback decides when it is worth it. draw(side): no larger than needed for `side`
                 pixels along its longer side, smaller by 2, 4 or 8: much faster (latents that are no DCT are drawn
                 whole). Within the callback
    groups       (rows,cols) int64, patch_boxes  (top,left,height,width): as in Result
    """

    draw: Callable[..., NDArray[np.float32]]
    groups: NDArray[np.int64]
    patch_boxes: list[tuple[int, int, int, int]]


ProgressCallback = Callable[[Progress], None]
PreviewCallback = Callable[[Preview], None]


@dataclass
class Report:
    """stages: {name: {"seconds", "peak_mib"}}, the latter the process's high-water mark when the stage ended (on a GPU:
    the device's allocations); patches and steps: per group; patch_steps: denoiser evaluations of a patch, all told;
    budget: its seconds, those left when the steps were chosen, and those that the chosen steps were to take;
    denoise: as given or as the gate chose it, 0 where the second restorer wasn't asked, None where there is none;
    lost_workers: a line for each that died."""

    device: str
    dtype: str
    seed: int
    input_size: tuple[int, int] = (0, 0)
    output_size: tuple[int, int] = (0, 0)
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    patches: dict[str, int] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    patch_steps: int = 0
    budget: dict[str, float] | None = None
    denoise: float | None = None
    lost_workers: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def count(self, counts: dict[str, int], groups: GroupConfig) -> None:
        """Patches and steps, by `pgs.groups.count_steps`."""
        self.patches = {name: counts[name] for name in groups.names}
        self.patch_steps = counts["patch_steps"]
        self.steps = dict(zip(groups.names, groups.steps, strict=True))

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time spent within to stage `name`."""
        started = time.perf_counter()
        yield
        self.add(name, time.perf_counter() - started)

    def add(self, name: str, seconds: float) -> None:
        """Seconds of work that was done elsewhere, or together with others'."""
        entry = self.stages.setdefault(name, {"seconds": 0.0, "peak_mib": 0.0})
        entry["seconds"] = round(entry["seconds"] + seconds, 4)
        entry["peak_mib"] = round(peak_mib(self.device), 1)


def peak_mib(device: str) -> float:
    """Largest memory so far in MiB: the device's allocations on CUDA, else the resident set of this process."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:  # Windows has no such call
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
