"""`patchscaler info`: what is installed, on what it can run, and where the weights come from."""

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from patchscaler import __version__
from patchscaler.engines.devices import choose_engine, described_engines
from patchscaler.errors import WeightsError
from patchscaler.storage import model_folder, read_json, read_shapes

RECORD = "record.json"
MIB = 2**20


def info(
    model: Annotated[str, typer.Option(metavar="NAME_OR_DIR", help="bundled name or folder of weights")] = "tiny",
) -> None:
    """Print versions, devices, and the weights with the record of their training."""
    typer.echo(f"patchscaler  {__version__}")
    chosen = choose_engine()
    for name, words in described_engines().items():
        typer.echo(f"{name:<11}  {words}{', taken by --engine auto' * (name == chosen)}")

    folder = Path(model_folder(model))
    if not folder.is_dir():
        raise WeightsError(f"{model}: no folder of weights; name one, or leave --model out for the bundled weights")
    typer.echo(f"weights      {folder}")
    rows = [(part.name, *_count(part)) for part in _parts(folder)]
    rows.append(("all", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    for name, parameters, size in rows:
        typer.echo(f"  {name:<18}  {parameters:>13,} parameters  {size / MIB:>8.2f} MiB")

    if not (folder / RECORD).is_file():
        typer.echo(f"record       none: {RECORD} is missing in this folder")
        return
    typer.echo("record")
    for line in _outline(read_json(folder / RECORD)):
        typer.echo(f"  {line}")


def _parts(folder: Path) -> list[Path]:
    """Folders of the parts, in the order of model_index.json."""
    index = read_json(folder / "model_index.json")
    return [folder / name for name in index if (folder / name / "config.json").is_file()]


def _count(part: Path) -> tuple[int, int]:
    """Parameters and bytes on disk of a part, from the headers alone."""
    files = list(part.glob("*.safetensors"))
    parameters = sum(math.prod(shape) for path in files for shape in read_shapes(path).values())
    return parameters, sum(path.stat().st_size for path in files)


def _outline(record: dict[str, Any]) -> list[str]:
    """The record as indented lines, without the settings of each run: these are long, and in the file."""
    lines = []
    for key, value in record.items():
        if key == "settings":
            continue
        if isinstance(value, dict):
            lines += [key, *(f"  {line}" for line in _outline(value))]
        else:
            lines.append(f"{key}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
    return lines
