"""The figures for people: rich tables on the terminal, a plot of the stages."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from patchscaler.errors import ConfigError

_COLUMNS = ("stage", "seconds", "least", "peak MiB", "G multiply-adds", "% of peak")


def print_tables(report: dict[str, Any], console: Console) -> None:
    """The machine in one line, a table for each configuration and one for whole processes."""
    if machine := report.get("machine"):
        native = "native" if machine["native_bfloat16"] else "no native"
        console.print(
            f"{machine['processor']}, {machine['cores']} cores, {native} bfloat16, "
            f"torch {machine['torch']}, {machine['threads']} threads"
            + (f", {machine['device']}" if "device" in machine else ""),
            highlight=False,
            markup=False,
        )
    for key, rate in report["rates"].items():
        console.print(f"matrix products ({key}): {rate / 1e9:.1f} G multiply-adds a second", highlight=False)
    for entry in report["configurations"]:
        console.print(_error(entry) if "error" in entry else _stages(entry), highlight=False)
    if report["processes"]:
        console.print(_processes(report["processes"]))
        for entry in report["processes"]:
            if "error" in entry:
                console.print(_error(entry), highlight=False, markup=False)


def check_plot(path: Path) -> None:
    """Raises ConfigError without matplotlib (the extra `plot`), or if `path` ends like nothing it can write."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as error:
        raise ConfigError('a plot needs matplotlib: pip install "patchscaler[plot]"') from error
    endings = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in endings:
        raise ConfigError(f"plot {path}: end the name with one of {', '.join('.' + ending for ending in endings)}")


def draw_plot(report: dict[str, Any], path: Path) -> None:
    """Stacked seconds of the stages, a bar for each configuration, and a bar for each whole process.

    path  ends as `check_plot` allows
    """
    from matplotlib.figure import Figure

    done = [entry for entry in report["configurations"] if "error" not in entry]
    whole = [entry for entry in report["processes"] if "error" not in entry]
    figure = Figure(figsize=(10, 1.5 + 0.5 * (len(done) + len(whole))), layout="constrained")
    axes = figure.add_subplot()
    names = list(dict.fromkeys(stage for entry in done for stage in entry["stages"]))
    left = [0.0] * len(done)
    for number, stage in enumerate(names):
        seconds = [entry["stages"].get(stage, {"seconds": 0.0})["seconds"] for entry in done]
        axes.barh([entry["name"] for entry in done], seconds, left=left, label=stage, color=f"C{number}")
        left = [before + more for before, more in zip(left, seconds, strict=True)]
    if whole:
        labels = [f"{entry['name']}, {entry['height']}x{entry['width']}, process" for entry in whole]
        axes.barh(labels, [entry["seconds"] for entry in whole], color="grey", label="whole process")
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    axes.legend(fontsize="small")
    figure.savefig(path)


def _error(entry: dict[str, Any]) -> str:
    return f"{entry['name']}: {entry['error']}"


def _stages(entry: dict[str, Any]) -> Table:
    patches = ", ".join(f"{count} {group}" for group, count in entry["patches"].items())
    table = Table(title=f"{entry['name']}\n{patches}, {entry['patch_steps']} patch-steps, {entry['dtype']}")
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column == "stage" else "right")
    for name, stage in entry["stages"].items():
        table.add_row(
            name,
            f"{stage['seconds']:.3f}",
            f"{stage['least_seconds']:.3f}",
            _number(stage["peak_mib"], 0),
            _number(stage.get("multiply_adds", 0) / 1e9 or None, 1),
            _number(stage.get("percent_of_peak"), 0),
        )
    table.add_section()
    table.add_row("all but start-up", f"{entry['seconds']:.3f}", "", _number(entry["peak_mib"], 0), "", "")
    return table


def _processes(entries: list[dict[str, Any]]) -> Table:
    table = Table("whole process", "input", "seconds", "least", "peak MiB", title="start-up included")
    for entry in entries:
        figures = ("failed", "", "")
        if "error" not in entry:
            figures = (f"{entry['seconds']:.2f}", f"{entry['least_seconds']:.2f}", _number(entry["peak_mib"], 0))
        table.add_row(entry["name"], f"{entry['height']}x{entry['width']}", *figures)
    return table


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
