"""One batch forward and backward, with nothing left behind."""

import dataclasses
import time
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from patchscaler.data.pictures import is_decoded
from patchscaler.training.loader import batches
from patchscaler.training.settings import RunSettings
from patchscaler.training.task import Task, mixed_precision, to_device, trained_parameters


def without_traces(settings: Any, scratch: str) -> Any:
    """Settings of a run whose new caches lie in the folder `scratch` and are as small as one batch allows."""
    changed = {}
    if not is_decoded(settings.pictures):
        changed["pictures"] = dataclasses.replace(settings.pictures, cache=scratch)
    if hasattr(settings, "cache") and settings.cache.count:
        changed["cache"] = dataclasses.replace(settings.cache, folder=scratch, count=settings.run.batch_size, workers=0)
    return dataclasses.replace(settings, **changed)


def dry_run(task: Task, run: RunSettings) -> None:
    """Prints the loss of one batch and the time it took."""
    accelerator = Accelerator(mixed_precision=mixed_precision(run))
    batch = next(iter(batches(task.dataset(), dataclasses.replace(run, workers=0), 0, run.batch_size)))
    started = time.monotonic()
    task.network.to(accelerator.device)
    to_device(task, accelerator.device)
    batch = torch.utils._pytree.tree_map(lambda x: x.to(accelerator.device) if isinstance(x, Tensor) else x, batch)
    with accelerator.autocast():
        loss, _ = task.loss(task.network, batch, torch.Generator().manual_seed(run.seed))
    loss.backward()
    seconds = time.monotonic() - started
    said = f"{trained_parameters(task):,} parameters; a batch of {run.batch_size}: loss {float(loss.detach()):.4f}"
    print(f"{said}, {seconds:.2f} s, {accelerator.device}")
