"""Paired bootstrap intervals: what a difference over pictures may be when other pictures of the kind are drawn."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
COVERAGE = 0.95
FEWEST = 6  # units: of fewer, all lie on one side by chance in more than 5 % of cases


class Interval(NamedTuple):
    """A figure and the ends of its 95 % percentile interval; the ends are not numbers for fewer than FEWEST units."""

    value: float
    low: float
    high: float

    @property
    def rises(self) -> bool | None:
        """Above 0 by more than chance; None where chance isn't known."""
        return None if math.isnan(self.low) else self.low > 0

    @property
    def falls(self) -> bool | None:
        """Below 0 by more than chance."""
        return None if math.isnan(self.high) else self.high < 0

    def __str__(self) -> str:
        ends = "too few pictures" if math.isnan(self.low) else f"{self.low:+.4f} to {self.high:+.4f}"
        return f"{self.value:+.4f} [{ends}]"


def bootstrap(count: int, statistic: Callable[[NDArray[np.int64]], float]) -> Interval:
    """Interval of a statistic of `count` units, which is given their numbers, as drawn with replacement."""
    value = float(statistic(np.arange(count))) if count else math.nan
    if count < FEWEST:
        return Interval(value, math.nan, math.nan)
    draw = np.random.default_rng(0)
    drawn = [statistic(draw.integers(count, size=count)) for _ in range(RESAMPLES)]
    low, high = np.nanquantile(drawn, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Interval(value, float(low), float(high))


def difference(one: Sequence[float], other: Sequence[float]) -> Interval:
    """Mean of one - other over pictures; those without a value left out."""
    pairs = np.array([a - b for a, b in zip(one, other, strict=True) if math.isfinite(a - b)])
    return bootstrap(len(pairs), lambda numbers: float(pairs[numbers].mean()))
