"""Bars: claims about a report's figures, which it proves or disproves."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from patchscaler.errors import ConfigError
from patchscaler.measure.intervals import Interval, difference
from patchscaler.measure.models import PATCHSCALER
from patchscaler.measure.quality.measure import GAIN
from patchscaler.measure.rows import Section
from patchscaler.metrics.choice import Metric

WEIGHTS = "weights_mb"  # of the model, in 10^6 bytes


@dataclass(frozen=True)
class Bar:
    """One claim, to hold under each of `conditions` (all when empty).

    metric   a metric's name; "lpips_alex_gain", whose rows are the groups of patches; or "weights_mb", of the model
    row      whose figure is judged
    against  the rows of which the best is the standard; or none, and `limit` is the standard itself
    factor, offset   the figure must be at least as good as factor x standard + offset
    strict   better, not only as good

    Raises ConfigError unless either `against` or `limit` is given.
    """

    metric: str
    row: str = PATCHSCALER
    against: list[str] = field(default_factory=list)
    limit: float | None = None
    factor: float = 1.0
    offset: float = 0.0
    strict: bool = False
    conditions: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if bool(self.against) == (self.limit is not None):
            raise ConfigError(f"a bar on {self.metric} needs either rows to stand against or a limit, not both")


@dataclass(frozen=True)
class Outcome:
    """What became of a bar under one condition.

    holds      None where a row or metric is absent
    value      of the row; standard: what it had to reach
    excess     mean over pictures of figure - (factor x standard row + offset), with its interval, where it goes by
               pictures
    """

    claim: str
    condition: str | None
    holds: bool | None
    value: float
    standard: float
    text: str
    excess: Interval | None = None


def judge(
    bars: Mapping[str, Bar], sections: Sequence[Section], metrics: Sequence[Metric], weights_mb: float | None
) -> list[Outcome]:
    """Every bar (by its claim) under every condition that it names. Raises ConfigError for an unknown metric."""
    known = {metric.name: metric for metric in metrics}
    outcomes = []
    for claim, bar in bars.items():
        if bar.metric == WEIGHTS:
            value = math.nan if weights_mb is None else weights_mb
            outcomes.append(_compare(claim, None, bar, value, bar.limit or 0.0, "lower", 1))
            continue
        for section in sections:
            if not bar.conditions or section.condition in bar.conditions:
                outcomes.append(_judge(claim, bar, section, known))
    return outcomes


def _judge(claim: str, bar: Bar, section: Section, known: Mapping[str, Metric]) -> Outcome:
    metric = known.get("lpips_alex" if bar.metric == GAIN else bar.metric)
    if metric is None:
        return Outcome(claim, section.condition, None, math.nan, math.nan, f"{bar.metric} was not measured")
    better = "higher" if bar.metric == GAIN else metric.better
    best = max if better == "higher" else min
    figures = {name: _figure(section, name, bar.metric) for name in (bar.row, *bar.against)}
    absent = [name for name, figure in figures.items() if math.isnan(figure)]
    if absent:
        return Outcome(claim, section.condition, None, math.nan, math.nan, f"no figure of {', '.join(absent)}")
    rival = best(bar.against, key=lambda name: figures[name]) if bar.against else None
    standard = figures[rival] if rival is not None else float(bar.limit or 0.0)
    outcome = _compare(claim, section.condition, bar, figures[bar.row], standard, better, metric.digits, rival)
    if rival is None or bar.metric == GAIN:
        return outcome
    ours, theirs = (section.rows_by_name[name].values[bar.metric] for name in (bar.row, rival))
    excess = difference(list(ours.values()), [bar.factor * theirs[stem] + bar.offset for stem in ours])
    return replace(outcome, excess=excess)


def _figure(section: Section, name: str, metric: str) -> float:
    if metric == GAIN:
        return section.groups.get(name, {}).get(GAIN, math.nan)
    row = section.rows_by_name.get(name)
    return math.nan if row is None else row.mean(metric)


def _compare(
    claim: str,
    condition: str | None,
    bar: Bar,
    value: float,
    standard: float,
    better: str,
    digits: int,
    rival: str | None = None,
) -> Outcome:
    needed = bar.factor * standard + bar.offset
    if math.isnan(value):
        return Outcome(claim, condition, None, value, needed, f"no figure of {bar.row}")
    ahead = value - needed if better == "higher" else needed - value
    holds = ahead > 0 or (value == needed and not bar.strict)
    sign = ("<" if better == "lower" else ">") + ("" if bar.strict else "=")
    formula = f"{needed:.{digits + 1}f}"
    if rival is not None and (bar.factor != 1 or bar.offset):
        factor = f"{bar.factor:g} x " if bar.factor != 1 else ""
        offset = f" {'+' if bar.offset > 0 else '-'} {abs(bar.offset):g}" if bar.offset else ""
        formula += f" = {factor}{standard:.{digits + 1}f}{offset}"
    name = f" ({rival})" if rival is not None else ""
    return Outcome(claim, condition, holds, value, needed, f"{value:.{digits + 1}f}, needed {sign} {formula}{name}")
