"""`patchscaler export`: the model for other programs, and the graphs of the light engine."""

from pathlib import Path
from typing import Annotated

import typer

from patchscaler.cli.options import Model

export_app = typer.Typer(help="The model for other programs, and graphs for the light engine.", no_args_is_help=True)


@export_app.command("onnx")
def export_onnx(out: Annotated[Path, typer.Argument(help="folder to write")], model: Model = "tiny") -> None:
    """Write all networks with their weights as ONNX files, for programs without this package."""
    from patchscaler.engines.export import export_onnx as run
    from patchscaler.options import Options
    from patchscaler.storage import fetch_model

    _list(run(fetch_model(model), out, steps=Options().groups.steps))


@export_app.command("graphs")
def export_graphs(
    model: Annotated[Path, typer.Argument(metavar="DIR", help="model folder")],
    out: Annotated[Path | None, typer.Option("-o", "--output", help="instead of DIR/graphs")] = None,
) -> None:
    """Write a model's networks as ONNX graphs without weights: the light engine runs models of these sizes."""
    from patchscaler.engines.graph_files import write_graphs
    from patchscaler.engines.onnx import GRAPHS

    _list(write_graphs(model, out or model / GRAPHS))


def _list(paths: list[Path]) -> None:
    for path in paths:
        typer.echo(f"{path}  {path.stat().st_size / 2**20:.1f} MiB")


@export_app.command("spandrel")
def export_spandrel(out: Annotated[Path, typer.Argument(metavar="FILE.safetensors")], model: Model = "tiny") -> None:
    """Write restorer and decoder as one file for spandrel (`patchscaler.integrations.spandrel` registers it)."""
    import torch

    from patchscaler.integrations.spandrel import export
    from patchscaler.models.model import load_model
    from patchscaler.storage import fetch_model

    export(load_model(fetch_model(model), torch.float32), out)
    _list([out])
