"""The plots of the experiments."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from patchscaler.measure.intervals import Interval


def new_axes(width: int = 8, height: float = 4.5, columns: int = 1) -> tuple[Any, Any]:
    """A figure and its axes, a list of them for several columns."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns)


def scatter(axes: Any, series: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str) -> None:
    """A line through the points of each series, those of one point alone as a mark."""
    for number, (name, points) in enumerate(series.items()):
        line = "-" if len(points) > 1 else ""
        axes.plot(*zip(*points, strict=True), line + "os^DvP*X"[number % 8], markersize=7, label=name)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.legend(fontsize="small")


def bars(axes: Any, names: Sequence[str], series: Mapping[str, Sequence[float]], label: str) -> None:
    """A group of bars for each name, one bar of each series in it."""
    height = 0.8 / len(series)
    for number, (name, values) in enumerate(series.items()):
        axes.barh([place + number * height for place in range(len(names))], values, height, label=name)
    axes.set_yticks([place + 0.4 - height / 2 for place in range(len(names))], names)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.legend(fontsize="small")


def gains(axes: Any, found: Mapping[str, Interval], label: str) -> None:
    """A bar for each gain, with its interval."""
    middle = [gain.value for gain in found.values()]
    ends = [[gain.value - gain.low for gain in found.values()], [gain.high - gain.value for gain in found.values()]]
    axes.barh(list(found), middle, xerr=ends, color="C0")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xlabel(label)
