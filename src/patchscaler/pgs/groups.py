"""Patch-adaptive Group Sampling (PGS): the less confident the restorer is of a patch, the more steps the patch gets.

Which group a patch belongs to, and when each group is where. "Eq. n" is PatchScaler's (arXiv 2405.17158).
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchscaler.errors import ConfigError

GROUP_NAMES = ("simple", "medium", "hard")


@dataclass(frozen=True)
class GroupConfig:
    """Thresholds, start times and steps of the groups, simple first. Defaults are the paper's.

    gammas  thresholds on the mean confidence, falling, in [0, 1]: one fewer than groups   Eq. 2
    taus    start times, never falling, in (0, T]
    steps   sampling steps, never falling, at most tau; 0 keeps the coarse latent

    Raises ConfigError, with the numbers, where these do not hold.
    """

    gammas: tuple[float, ...] = (0.95, 0.75)
    taus: tuple[int, ...] = (400, 700, 1000)
    steps: tuple[int, ...] = (8, 14, 20)

    def __post_init__(self) -> None:
        gammas, taus, steps = self.gammas, self.taus, self.steps
        if not len(taus) == len(steps) == len(gammas) + 1:
            raise ConfigError(
                f"{len(gammas)} gammas make {len(gammas) + 1} groups, not {len(taus)} taus and {len(steps)} steps"
            )
        if not all(0 <= gamma <= 1 for gamma in gammas) or any(a <= b for a, b in pairwise(gammas)):
            raise ConfigError(f"gammas {gammas} must fall strictly and lie in [0, 1]")
        if not all(isinstance(value, int) for value in (*taus, *steps)):
            raise ConfigError(f"taus {taus} and steps {steps} must be whole numbers")
        if taus[0] < 1 or any(a > b for a, b in pairwise(taus)):
            raise ConfigError(f"taus {taus} must be at least 1 and never fall")
        if steps[0] < 0 or any(a > b for a, b in pairwise(steps)):
            raise ConfigError(f"steps {steps} must not be negative and never fall: harder patches get no fewer steps")
        if any(count > tau for count, tau in zip(steps, taus, strict=True)):
            raise ConfigError(f"steps {steps} must not exceed their taus {taus}")

    @property
    def names(self) -> tuple[str, ...]:
        """One name per group: GROUP_NAMES for the usual three, else group_0, group_1, ..."""
        count = len(self.steps)
        return GROUP_NAMES if count == len(GROUP_NAMES) else tuple(f"group_{index}" for index in range(count))


class Plan(NamedTuple):
    """The groups' times, aligned at the end.

    times  (G, max(N) + 1): times[g, k] is the time index in [-1, T) of group g when k steps remain; times[g, 0] = -1 is
           the clean latent, and entries with k > N_g are -1 and never read
    steps  (G,): N_g
    """

    times: NDArray[np.int64]
    steps: NDArray[np.int64]


def confidence_from(log_error: NDArray[np.float32], eta: float) -> NDArray[np.float32]:
    """C = min(1, eta / e) in (0,1]: the optimum of Eq. 1 for an expected squared error e = exp(log_error)."""
    return np.exp(np.minimum(np.float32(math.log(eta)) - log_error, np.float32(0)))


def assign_groups(confidence: Any, gammas: tuple[float, ...] = (0.95, 0.75)) -> Any:
    """Group of each patch (B,) int64 from its mean confidence (B,), Eq. 2: simple (0) from gammas[0] up, hard (last)
    below gammas[-1]. Arrays and tensors alike.

    A threshold belongs to the simpler side. Choice: a confidence that is not a number makes a patch hard.
    """
    return sum((~(confidence >= float(np.float32(gamma))) for gamma in gammas), start=0 * (confidence > 0))


def count_steps(groups: NDArray[np.int64], config: GroupConfig) -> dict[str, int]:
    """Patches per group, by `config.names`, and `patch_steps`, the network's evaluations of one patch in all."""
    counts = np.bincount(groups, minlength=len(config.steps)).tolist()
    total = sum(count * steps for count, steps in zip(counts, config.steps, strict=True))
    return dict(zip(config.names, counts, strict=True)) | {"patch_steps": total}


def by_cost(groups: NDArray[np.int64], config: GroupConfig) -> NDArray[np.int64]:
    """Indices of the patches that have steps at all, those with most steps first, in the order of the picture."""
    steps = np.asarray(config.steps)[groups]
    return np.argsort(-steps, kind="stable")[: int((steps > 0).sum())]


def plan(config: GroupConfig, train_steps: int = 1000) -> Plan:
    """Times of every group with trailing spacing: round(k tau / N) - 1 when k of N steps remain.

    Raises ConfigError where a tau exceeds `train_steps`, T.
    """
    if config.taus[-1] > train_steps:
        raise ConfigError(f"taus {config.taus} must not exceed the {train_steps} steps of the noise schedule")
    times = np.full((len(config.steps), config.steps[-1] + 1), -1, np.int64)
    for row, tau, steps in zip(times, config.taus, config.steps, strict=True):
        if steps:
            row[1 : steps + 1] = np.round(np.arange(1, steps + 1) * tau / steps) - 1
    return Plan(times, np.asarray(config.steps, np.int64))
