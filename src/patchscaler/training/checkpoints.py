"""Checkpoints of a training run: whole whenever the run is killed."""

import os
import shutil
from pathlib import Path

from accelerate import Accelerator


def save_checkpoint(accelerator: Accelerator, checkpoint: Path) -> None:
    """Writes beside, then renames: a kill at any moment leaves a whole checkpoint, see `finish_checkpoint`."""
    fresh, old = _neighbours(checkpoint)
    if accelerator.is_main_process:
        shutil.rmtree(fresh, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(fresh))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(old, ignore_errors=True)
        if checkpoint.exists():
            os.replace(checkpoint, old)
        os.replace(fresh, checkpoint)
        shutil.rmtree(old, ignore_errors=True)


def finish_checkpoint(checkpoint: Path) -> None:
    """Completes a `save_checkpoint` killed between its two renames, when the old and the new one are both whole."""
    fresh, old = _neighbours(checkpoint)
    if old.exists() and not checkpoint.exists():
        os.replace(fresh if fresh.exists() else old, checkpoint)


def keep(folder: Path, step: int) -> None:
    """Copies the run's checkpoint and exported weights to kept/STEP, whole or not at all."""
    target = folder / "kept" / f"{step:07d}"
    partial = target.with_suffix(".new")
    shutil.rmtree(partial, ignore_errors=True)
    for name in ("checkpoint", "weights"):
        shutil.copytree(folder / name, partial / name)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)


def _neighbours(checkpoint: Path) -> tuple[Path, Path]:
    """Where the next checkpoint is written and where the one before is put aside."""
    return checkpoint.with_name("checkpoint.new"), checkpoint.with_name("checkpoint.old")
