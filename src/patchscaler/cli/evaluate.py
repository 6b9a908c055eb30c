"""`patchscaler evaluate`: results, or a model, measured against ground truth or without."""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchscaler.cli.options import BatchSize, Device, Features, Seed, parse_steps
from patchscaler.engines.devices import choose_device
from patchscaler.errors import ConfigError, ImageWriteError

if TYPE_CHECKING:
    from rich.table import Table

    from patchscaler.measure.peers import Peer
    from patchscaler.measure.quality.report import Report
    from patchscaler.measure.rows import Section

PEER_HELP = (
    "a row: a folder of results, in which {condition} is filled in; or another upscaler that enlarges the same "
    "pictures: a published checkpoint, NAME=FILE.pth, or a command, NAME='COMMAND {input} {output}'"
)
PIPED_WIDTH = 160  # columns of the tables where no terminal says how many it has
COLUMN_WIDTH = 24


def evaluate(
    out: Annotated[list[str] | None, typer.Option("--out", "--peer", metavar="NAME=DIR", help=PEER_HELP)] = None,
    ref: Annotated[Path | None, typer.Option(metavar="DIR", help="ground truth, paired by the files' stems")] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME_OR_DIR", help="run this model, too")] = None,
    inputs: Annotated[Path | None, typer.Option("--input", metavar="DIR", help="what the model enlarges")] = None,
    conditions: Annotated[
        str | None, typer.Option(help="degrade --ref instead: of bicubic,camera,mild,real_esrgan,resshift")
    ] = None,
    steps: Annotated[
        list[str] | None,
        typer.Option(help="as in upscale, more than once for further rows (default: those of --quality balanced)"),
    ] = None,
    no_texture: Annotated[bool, typer.Option("--no-texture", help="a row without the texture prompt, too")] = False,
    metrics: Annotated[
        str, typer.Option(help="default, offline, all, or names: psnr_y,ssim_y,lpips_alex,lpips_vgg,dists,niqe,...")
    ] = "default",
    features: Features = None,
    bars: Annotated[Path | None, typer.Option(metavar="FILE.toml", help="claims to prove or disprove")] = None,
    save: Annotated[Path | None, typer.Option(metavar="DIR", help="keep inputs and results in this folder")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE.json", help="all figures")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE.html", help="report with crops at 100 %")] = None,
    html_pictures: Annotated[int, typer.Option(min=0, help="pictures in it, the worst first; 0: all")] = 12,
    count: Annotated[int, typer.Option(min=0, help="only the first so many pictures; 0: all")] = 0,
    shave: Annotated[int, typer.Option(min=0, help="border left out of PSNR and SSIM, in pixels")] = 4,
    seed: Seed = 0,
    device: Device = "auto",
    batch_size: BatchSize = 64,
) -> None:
    """Measure folders of results, or a model, against ground truth or without.

    Exit code 1 when a bar doesn't hold.
    """
    from diffusers.utils.logging import disable_progress_bar

    from patchscaler.measure.quality.bars import Bar
    from patchscaler.measure.quality.evaluate import Request
    from patchscaler.measure.quality.evaluate import evaluate as run

    peers = peers_of(out or [])
    runs = model is not None or any(not peer.is_folder for peer in peers)
    if conditions is None and runs and ref is not None and inputs is None:
        conditions = "bicubic"
    request = Request(
        peers=peers,
        reference=ref,
        inputs=inputs,
        model=model,
        conditions=tuple(filter(None, (part.strip() for part in (conditions or "").split(",")))),
        steps=tuple(dict.fromkeys(parse_steps(text) for text in steps)) if steps else Request.steps,
        no_texture=no_texture,
        metrics=metrics,
        features=features,
        seed=seed,
        device=choose_device(device),
        batch_size=batch_size,
        count=count,
        shave=shave,
    )
    claims: dict[str, Bar] = _read_bars(bars) if bars is not None else {}
    for path in filter(None, (json_file, html)):
        if not path.parent.is_dir():
            raise ImageWriteError(f"{path}: the folder {path.parent} does not exist; create it first")
    disable_progress_bar()  # of the model's loading, which takes a moment
    with nullcontext(save) if save is not None else tempfile.TemporaryDirectory() as folder, _tracking() as track:
        report = run(request, Path(folder), claims, track)
        if json_file is not None:
            json_file.write_text(json.dumps(report.as_dict(), indent=1) + "\n", encoding="utf-8")
        if html is not None:
            from patchscaler.measure.quality.page import render

            html.write_text(render(report, html_pictures, features), encoding="utf-8")
    _print(report)
    if any(outcome.holds is False for outcome in report.outcomes):
        raise typer.Exit(1)


def peers_of(texts: list[str]) -> "tuple[Peer, ...]":
    """Other upscalers from --out or --peer; raises ConfigError for a name used twice."""
    from patchscaler.measure.peers import Peer

    peers = tuple(Peer.parse(text) for text in texts)
    for number, peer in enumerate(peers):
        if peer.name in [other.name for other in peers[:number]]:
            raise ConfigError(f"{texts[number]}: the name {peer.name} is taken; name the rows differently, NAME=...")
    return peers


def _read_bars(path: Path) -> dict[str, Any]:
    """The bars in a TOML file, by their claims. Raises ConfigError."""
    from patchscaler.measure.quality.bars import Bar
    from patchscaler.training.settings import build, read_toml

    return {claim: build(Bar, table, f"{claim}.") for claim, table in read_toml(path).items()}


@contextmanager
def _tracking() -> Iterator[Callable[[str, int | None], Callable[[], None]]]:
    """A Track that shows each stage's progress on stderr, and nothing where nobody looks."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:

        def track(stage: str, total: int | None) -> Callable[[], None]:
            task = progress.add_task(stage, total=total)
            return lambda: progress.advance(task)

        yield track


def _print(report: "Report") -> None:
    """The tables on stdout, what is missing on stderr."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PIPED_WIDTH)
    for section in report.sections:
        console.print(_table(report, section))
        if section.groups:
            console.print(_group_table(section))
    for outcome in report.outcomes:
        word = {True: "holds", False: "fails", None: "not known"}[outcome.holds]
        where = f" [{outcome.condition}]" if outcome.condition else ""
        console.print(f"{word:<9}  {outcome.claim}{where}: {outcome.text}", markup=False)
    for name, reason in report.missing.items():
        typer.echo(f"patchscaler: {name} was not measured: {reason}", err=True)


def _table(report: "Report", section: "Section") -> "Table":
    from rich.table import Table

    from patchscaler.measure.quality.page import table_rows

    title = f"{len(section.stems)} pictures" + (f", {section.condition}" if section.condition else "")
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for metric in report.metrics:
        arrow = "↑" if metric.better == "higher" else "↓"
        heading = f"{metric.name} {arrow}\n{metric.label.removeprefix(metric.name).strip()}"
        table.add_column(heading, justify="right", max_width=COLUMN_WIDTH)
    for row in table_rows(report, section):
        table.add_row(
            row["name"], *(f"[bold]{cell['text']}[/]" if cell["best"] else cell["text"] for cell in row["cells"])
        )
    return table


def _group_table(section: "Section") -> "Table":
    from rich.table import Table

    from patchscaler.measure.quality.page import group_rows

    table = Table(title="LPIPS (alex) by group of patches", title_justify="left")
    for heading in ("", "patches", "share", "restorer alone", "PatchScaler", "gain"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in group_rows(section):
        table.add_row(row["name"], str(row["patches"]), row["share"], *row["values"])
    return table
