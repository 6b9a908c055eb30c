"""What is measured: one Configuration for each process of ours, and the sweep that lists them."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from patchscaler.errors import ConfigError
from patchscaler.imaging.geometry import Size
from patchscaler.measure import models
from patchscaler.measure.models import GroupConfig

ADAPTIVE = "adaptive"
UNIFORM = "uniform"
RESTORER = "restorer alone"

# The methods that ours is held against: every patch the hard patches' way, and no sampling at all.
BASELINES: dict[str, GroupConfig] = {UNIFORM: models.UNIFORM, RESTORER: models.NONE}


@dataclass(frozen=True)
class Configuration:
    """One way to enlarge the benchmark's picture, measured in a process of its own.

    method       ADAPTIVE or a name in BASELINES
    height ..    of the input in pixels
    steps, taus  of the groups simple, medium, hard
    dtype        "auto", or a torch dtype's name
    threads      of the processor; 0 leaves torch's choice
    device       "cpu", "cuda:0", ...
    model        folder, bundled name or hub id
    workers      devices of the processes that share the patches, split as in the paper; none: this process alone
    """

    method: str
    height: int
    width: int
    steps: tuple[int, ...]
    taus: tuple[int, ...]
    batch_size: int
    dtype: str
    threads: int
    device: str
    model: str
    workers: tuple[str, ...] = ()

    @property
    def size(self) -> Size:
        return Size(self.height, self.width)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Configuration":
        """Back from `as_dict`, through JSON too."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)


def sweep(
    sizes: Sequence[Size],
    steps: Sequence[tuple[int, ...]],
    batch_sizes: Sequence[int],
    dtypes: Sequence[str],
    threads: Sequence[int],
    devices: Sequence[str],
    *,
    model: str = "tiny",
    baselines: bool = True,
) -> list[Configuration]:
    """Every combination of the adaptive method, then the baselines of each size at the first of all other settings."""
    if not all((sizes, steps, batch_sizes, dtypes, threads, devices)):
        raise ConfigError("a benchmark needs at least one size, steps, batch size, dtype, thread count and device")
    listed = []
    for size in sizes:
        for chosen, device, dtype, count, batch in itertools.product(steps, devices, dtypes, threads, batch_sizes):
            groups = GroupConfig(steps=chosen)
            listed.append(Configuration(ADAPTIVE, *size, groups.steps, groups.taus, batch, dtype, count, device, model))
        for method, groups in BASELINES.items() if baselines else ():
            first = (batch_sizes[0], dtypes[0], threads[0], devices[0])
            listed.append(Configuration(method, *size, groups.steps, groups.taus, *first, model))
    return listed


def parse_size(text: str) -> Size:
    """ "512" or "512x768" (height x width) -> Size in pixels. Raises ConfigError."""
    matched = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip())
    if not matched or not int(matched[1]) or not int(matched[2] or matched[1]):
        raise ConfigError(f"size {text!r}: give the input's side or HEIGHTxWIDTH in pixels, such as 512 or 512x768")
    return Size(int(matched[1]), int(matched[2] or matched[1]))
