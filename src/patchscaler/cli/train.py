"""`patchscaler train PART SETTINGS.toml`: one training run per settings file; the same command resumes it."""

import tempfile
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer


class Part(str, Enum):
    """The learned parts, in the order in which they are trained."""

    autoencoder = "autoencoder"
    restorer = "restorer"
    texture = "texture"
    patch_dit = "patch-dit"
    finetune = "finetune"
    fusion = "fusion"
    confidence = "confidence"


def train(
    part: Annotated[Part, typer.Argument(help="which network to train")],
    settings: Annotated[Path, typer.Argument(help="TOML file of the run (see configs/)")],
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="instead of the file's, e.g. run.steps=1000")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="one batch, nothing written")] = False,
    estimate: Annotated[
        bool,
        typer.Option("--estimate", help="of configs/paper: parameters, memory and FLOPs; nothing read or allocated"),
    ] = False,
) -> None:
    """Train a part of the model; the same command resumes a run from its newest checkpoint."""
    from patchscaler.training.dry_run import dry_run as run_once
    from patchscaler.training.dry_run import without_traces
    from patchscaler.training.loop import train as run_training
    from patchscaler.training.settings import build, read_toml, with_values

    settings_type, task_type = types_of(part)
    resolved: Any = build(settings_type, with_values(read_toml(settings), changes or []))
    if estimate:
        from patchscaler.training.estimate import count, report

        typer.echo(report(count(resolved), resolved.run))
        return
    if not dry_run:
        run_training(task_type(resolved), resolved.run, resolved)
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        resolved = without_traces(resolved, scratch)
        run_once(task_type(resolved), resolved.run)


def types_of(part: Part) -> tuple[Any, Any]:
    """Settings and task classes of a part; imported when asked for, so that each needs only its own libraries."""
    if part is Part.autoencoder:
        from patchscaler.training.autoencoder import AutoencoderSettings, AutoencoderTask

        return AutoencoderSettings, AutoencoderTask
    if part is Part.restorer:
        from patchscaler.training.restorer import RestorerSettings, RestorerTask

        return RestorerSettings, RestorerTask
    if part is Part.texture:
        from patchscaler.training.texture import TextureSettings, TextureTask

        return TextureSettings, TextureTask
    if part is Part.finetune:
        from patchscaler.training.finetune import FinetuneSettings, FinetuneTask

        return FinetuneSettings, FinetuneTask
    if part is Part.fusion:
        from patchscaler.training.fusion import FusionSettings, FusionTask

        return FusionSettings, FusionTask
    if part is Part.confidence:
        from patchscaler.training.confidence import ConfidenceSettings, ConfidenceTask

        return ConfidenceSettings, ConfidenceTask
    from patchscaler.training.patch_dit import PatchDiTSettings, PatchDiTTask

    return PatchDiTSettings, PatchDiTTask
