"""Batches of a training run."""

import torch
from torch.utils.data import DataLoader, Dataset

from patchscaler.training.settings import RunSettings


def one_thread(worker: int) -> None:
    """For DataLoader's worker_init_fn: the processor belongs to the training process."""
    torch.set_num_threads(1)


def batches(dataset: Dataset, run: RunSettings, first: int, last: int) -> DataLoader:
    """Samples first to last - 1 in order: a resumed run goes on with the sample it would have drawn."""
    return DataLoader(
        dataset,
        batch_size=run.batch_size,
        sampler=range(first, last),
        num_workers=run.workers,
        worker_init_fn=one_thread,
        persistent_workers=run.workers > 0,
        prefetch_factor=4 if run.workers else None,
        drop_last=True,
        pin_memory=torch.cuda.is_available(),
    )
