"""What every measurement is made of: rows of results with their figures, in sections that share their pictures."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class Patches(NamedTuple):
    """How the model grouped one picture: names of the groups, each patch's group and (top, left, height, width)."""

    names: list[str]
    groups: list[int]
    boxes: list[tuple[int, int, int, int]]


@dataclass
class Row:
    """One set of results: files by stem, and once measured every figure (metric, seconds, ...) of every stem."""

    name: str
    files: dict[str, Path] = field(default_factory=dict)
    values: dict[str, dict[str, float]] = field(default_factory=dict)

    def note(self, stem: str, **figures: float) -> None:
        """Adds figures of one picture."""
        for name, value in figures.items():
            self.values.setdefault(name, {})[stem] = float(value)

    def column(self, figure: str) -> list[float]:
        """The values of all pictures, in their order."""
        return list(self.values[figure].values())

    def mean(self, figure: str) -> float:
        """Mean over the pictures that have a value; not a number if none has one."""
        return mean(self.values[figure].values())

    def total(self, figure: str) -> float:
        return sum(self.values[figure].values())

    def counted(self, figure: str) -> int:
        """Pictures that have a value."""
        return sum(not math.isnan(value) for value in self.values[figure].values())


@dataclass
class Section:
    """Rows that share their pictures: one condition, or all there is (condition None).

    focus       name of the row that the report is about
    references  ground truth by stem, or None
    inputs      what was enlarged, by stem, where that is known
    patches     the model's grouping by stem
    groups      figures of each group, see `group_figures`
    """

    condition: str | None
    focus: str
    references: dict[str, Path] | None = None
    inputs: dict[str, Path] | None = None
    rows: list[Row] = field(default_factory=list)
    patches: dict[str, Patches] = field(default_factory=dict)
    groups: dict[str, dict[str, int | float]] = field(default_factory=dict)

    @property
    def stems(self) -> list[str]:
        return list(self.rows[0].files if self.rows else self.references or self.inputs or {})

    @property
    def rows_by_name(self) -> dict[str, Row]:
        return {row.name: row for row in self.rows}


def mean(values: Iterable[float]) -> float:
    """Mean of the values that are numbers; not a number if there is none."""
    numbers = [value for value in values if not math.isnan(value)]
    return sum(numbers) / len(numbers) if numbers else math.nan
