"""`patchscaler export onnx`: the model for programs without torch."""

from pathlib import Path
from typing import Annotated

import typer

export_app = typer.Typer(help="The model for other programs.", no_args_is_help=True)


@export_app.callback()
def export() -> None:
    """The model for other programs."""


@export_app.command("onnx")
def export_onnx(
    out: Annotated[Path, typer.Argument(help="folder to write")],
    model: Annotated[str, typer.Option(metavar="NAME_OR_DIR", help="bundled name, folder or hub id")] = "tiny",
) -> None:
    """Write all networks as ONNX files, for `patchscaler.onnx.runner`, which needs no torch."""
    import torch
    from diffusers.utils.logging import disable_progress_bar

    from patchscaler.integrations.diffusers.pipeline import PatchScalerPipeline
    from patchscaler.onnx.export import export_onnx as run

    disable_progress_bar()
    for path in run(PatchScalerPipeline.from_pretrained(model, dtype=torch.float32), out):
        typer.echo(f"{path}  {path.stat().st_size / 2**20:.1f} MiB")
