"""`patchscaler benchmark`: how long every stage takes here, how much memory and arithmetic, and against what."""

import json
from pathlib import Path
from typing import Annotated

import typer

from patchscaler.cli.options import DTYPES, Model, parse_steps
from patchscaler.engines.devices import choose_device
from patchscaler.errors import ConfigError

PEER_HELP = "another upscaler: a command with {input} and {output}, or a checkpoint that spandrel reads; repeatable"


def benchmark(
    size: Annotated[
        list[str] | None, typer.Option(metavar="SIDE|HxW", help="input in pixels; repeatable (default: 128, 256)")
    ] = None,
    steps: Annotated[list[str] | None, typer.Option(help="repeatable (default: those of --quality balanced)")] = None,
    batch_size: Annotated[list[int] | None, typer.Option(min=1, help="repeatable (default: 64)")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help=f"{', '.join(DTYPES)}; repeatable")] = None,
    threads: Annotated[list[int] | None, typer.Option(min=0, help="0: torch's choice; repeatable")] = None,
    device: Annotated[list[str] | None, typer.Option(help="repeatable (default: auto)")] = None,
    model: Model = "tiny",
    baselines: Annotated[bool, typer.Option(help="also uniform 20 steps, and the restorer alone")] = True,
    peer: Annotated[list[str] | None, typer.Option(metavar="NAME=COMMAND", help=PEER_HELP + "; repeatable")] = None,
    picture: Annotated[Path | None, typer.Option(help="what to enlarge (default: a synthetic picture)")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="runs, of which the median counts")] = 3,
    warm_up: Annotated[int, typer.Option(min=0, help="runs before them")] = 1,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE.json")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="draw the stages (needs matplotlib)")] = None,
) -> None:
    """Measure time, memory and arithmetic of every stage on this machine.

    Each configuration runs in a process of its own. Peers are timed as whole processes, and so are we beside them.
    """
    from rich.console import Console

    from patchscaler.measure.peers import Peer
    from patchscaler.measure.speed.settings import parse_size, sweep
    from patchscaler.measure.speed.suite import run
    from patchscaler.measure.speed.table import check_plot, draw_plot, print_tables
    from patchscaler.options import DEFAULT_QUALITY, QUALITIES
    from patchscaler.storage import model_folder

    # 1. Everything that can be wrong with the call, before any work.
    dtypes = dtype or ["auto"]
    if unknown := sorted(set(dtypes) - set(DTYPES)):
        raise ConfigError(f"--dtype {unknown[0]}: choose {', '.join(DTYPES)}")
    for path, option in ((output, "-o"), (plot, "--plot")):
        if path is not None and not path.parent.is_dir():
            raise ConfigError(f"{option} {path}: its folder does not exist; create it first")
    if plot is not None:
        check_plot(plot)
    devices = [choose_device(name) for name in device or ["auto"]]
    configurations = sweep(
        [parse_size(text) for text in size or ["128", "256"]],
        [parse_steps(text) for text in steps] if steps else [QUALITIES[DEFAULT_QUALITY]],
        batch_size or [64],
        dtypes,
        threads or [0],
        devices,
        model=model_folder(model),
        baselines=baselines,
    )
    peers = [Peer.parse(text) for text in peer or []]
    for one in peers:
        one.call(Path("i.png"), Path("o.png"))  # refused where it is a folder

    # 2. The work, each line of progress on stderr.
    lines = Console(stderr=True, highlight=False, markup=False)
    report = run(configurations, peers, picture=picture, repeats=repeats, warm_up=warm_up, notify=lines.print)

    print_tables(report, Console())
    if output is not None:
        output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if plot is not None:
        draw_plot(report, plot)
    if any("error" in entry for entry in (*report["configurations"], *report["processes"])):
        raise typer.Exit(1)
