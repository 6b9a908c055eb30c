"""One training loop for every learned part: accelerate, EMA, checkpoints by the clock, exact resume.

All randomness of a step is a function of (seed, step), and the batch of a step is samples step * batch_size onwards of
a dataset that is a function of (seed, index). So a checkpoint needs the position, the weights, their EMA and the
optimiser, and a resumed run is the run that was never stopped.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration, broadcast
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from patchscaler.training.common import one_thread
from patchscaler.training.log import Log
from patchscaler.training.settings import RunSettings, as_dict, check_settings


@runtime_checkable
class Task(Protocol):
    """What a part brings to the loop.

    A task with more state than the trained parameters (a discriminator and its optimiser, say) lists it, as objects
    with `state_dict` and `load_state_dict`, in an attribute `checkpointed`; its frozen networks in `frozen`. All
    networks go to the device of the training. `skips` says that some steps leave some parameters out; the method
    `rate_of` gives a parameter's learning rate by its name, relative to the run's.
    """

    network: nn.Module  # the trained parameters, all of them and no others

    def dataset(self) -> Dataset:
        """Samples as a function of (seed, index)."""
        ...

    def loss(self, network: nn.Module, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar loss and figures for the log, under autocast."""
        ...

    def validate(self) -> tuple[dict[str, float], Image.Image | None]:
        """Figures of `network` on validation pictures, and a sample sheet."""
        ...

    def export(self, folder: Path) -> None:
        """Writes `network` as the inference code loads it."""
        ...


@dataclasses.dataclass
class Progress:
    """The position that a checkpoint stores beside the tensors."""

    step: int = 0
    seconds: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.seconds = int(state["step"]), float(state["seconds"])


def learning_rate_at(step: int, run: RunSettings) -> float:
    """Warm-up, constant, then linear decay to 0 over the last `decay_steps`; a factor in [0,1]."""
    warm = min(1.0, (step + 1) / max(1, run.warmup_steps))
    left = (run.steps - step) / run.decay_steps if run.decay_steps else 1.0
    return min(warm, max(0.0, left), 1.0)


class EndlessFrom:
    """Sampler of the indices first to last - 1: a resumed run goes on with the sample it would have drawn."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.last))

    def __len__(self) -> int:
        return max(0, self.last - self.first)


def train(task: Task, run: RunSettings, settings: Any, dry_run: bool = False) -> dict[str, float]:
    """Runs or resumes a training run; returns the last validation figures.

    `settings` is recorded in the run folder; a folder that was begun with other settings is refused (ConfigError), but
    for run.steps, decay_steps, max_hours and the intervals, which may change between calls.
    """
    folder = Path(run.folder)
    accelerator = Accelerator(
        mixed_precision="no" if run.precision == "fp32" else run.precision,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=getattr(task, "skips", False))],
        project_config=ProjectConfiguration(project_dir=run.folder),
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=False, non_blocking=True),
    )
    count = sum(p.numel() for p in task.network.parameters() if p.requires_grad)
    if dry_run:
        _dry_run(task, run, accelerator, count)
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    with accelerator.main_process_first():
        check_settings(folder / "settings.json", settings)

    optimizer = torch.optim.AdamW(_parameter_groups(task, run), lr=run.learning_rate, betas=run.betas)
    progress = Progress()
    ema = EMAModel(task.network.parameters(), decay=run.ema_decay, use_ema_warmup=True, power=0.75, foreach=True)
    with accelerator.local_main_process_first():  # one process of each machine builds caches, the others find them
        dataset = task.dataset()
    network, optimizer = accelerator.prepare(task.network, optimizer)
    _to_device(task, accelerator.device)
    torch.backends.cudnn.benchmark = True  # a run's shapes hardly change
    accelerator.register_for_checkpointing(progress, ema, *getattr(task, "checkpointed", ()))
    checkpoint = folder / "checkpoint"
    if accelerator.is_main_process:
        _finish_checkpoint(checkpoint)
    accelerator.wait_for_everyone()
    if checkpoint.exists():
        accelerator.load_state(str(checkpoint))
    ema.to(accelerator.device)
    log = Log(folder / "log.jsonl", accelerator.is_main_process)
    log.write(event="start", step=progress.step, parameters=count, device=str(accelerator.device))

    forward: Any = torch.compile(network) if run.compile else network
    per_step = run.batch_size * accelerator.num_processes
    loader = accelerator.prepare(_loader(dataset, run, progress.step * per_step, run.steps * per_step))
    started = last_checkpoint = time.monotonic()
    before = progress.seconds
    figures: dict[str, float] = {}
    if progress.step >= run.steps:  # nothing left to do, but the record still needs its figures
        figures = _validate(task, ema, folder, progress, log, accelerator)
    sums: dict[str, Any] = {}
    summed = 0
    for batch in loader:
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * run.learning_rate * learning_rate_at(progress.step, run)
        generator = torch.Generator().manual_seed(
            (run.seed * 1_000_003 + progress.step * accelerator.num_processes + accelerator.process_index) % 2**63
        )
        with accelerator.autocast():
            loss, logged = task.loss(forward, batch, generator)
        optimizer.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(network.parameters(), run.clip_norm)
        if not torch.isfinite(norm):
            log.write(event="skipped", step=progress.step, reason="gradient is not finite")
            optimizer.zero_grad(set_to_none=True)
        optimizer.step()
        ema.step(task.network.parameters())
        progress.step += 1
        progress.seconds = before + time.monotonic() - started
        for name, value in {"loss": loss.detach(), "gradient_norm": norm, **logged}.items():
            sums[name] = sums.get(name, 0.0) + value.detach().float()  # stays on the device: reading it would wait
        summed += 1  # after a resume fewer than log_every
        if progress.step % run.log_every == 0:
            means = {k: round(float(v) / summed, 5) for k, v in sums.items()}
            log.write(event="train", step=progress.step, hours=round(progress.seconds / 3600, 4), **means)
            sums, summed = {}, 0
        last = progress.step >= run.steps
        now = time.monotonic()
        out_of_time = run.max_hours is not None and now - started > run.max_hours * 3600
        due = now - last_checkpoint > run.checkpoint_minutes * 60
        out_of_time, due = _agreed(accelerator, out_of_time, due)
        if progress.step % run.validate_every == 0 or last or out_of_time:
            figures = _validate(task, ema, folder, progress, log, accelerator)
        if last or out_of_time or due:
            _save_checkpoint(accelerator, checkpoint)
            if accelerator.is_main_process:
                _export(task, ema, folder, progress, figures, settings)
            last_checkpoint = time.monotonic()
        if out_of_time:
            break
    if accelerator.is_main_process:
        _export(task, ema, folder, progress, figures, settings)
    accelerator.end_training()
    return figures


def _parameter_groups(task: Task, run: RunSettings) -> list[dict[str, Any]]:
    """The trained parameters by rate and weight decay: vectors and scalars aren't decayed."""
    rate_of = getattr(task, "rate_of", lambda name: 1.0)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in task.network.named_parameters():
        if parameter.requires_grad:
            key = rate_of(name), run.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault(key, []).append(parameter)
    return [{"params": some, "rate": rate, "weight_decay": decay} for (rate, decay), some in groups.items()]


def _to_device(task: Task, device: torch.device) -> None:
    """All networks of a task but the trained one: frozen ones, and what it trains by itself."""
    for part in (*getattr(task, "frozen", ()), *getattr(task, "checkpointed", ())):
        if isinstance(part, nn.Module):
            part.to(device)


def _export(
    task: Task, ema: EMAModel, folder: Path, progress: Progress, figures: dict[str, float], settings: Any
) -> None:
    """The EMA weights as inference loads them, and what they are."""
    with averaged(ema, task.network):
        task.export(folder / "weights")
    hours = round(progress.seconds / 3600, 3)
    record = {"steps": progress.step, "hours": hours, "figures": figures, "settings": as_dict(settings)}
    (folder / "weights" / "training.json").write_text(json.dumps(record, indent=2))


@contextlib.contextmanager
def averaged(ema: EMAModel, network: nn.Module) -> Iterator[None]:
    """Within, `network` holds the EMA weights."""
    ema.store(network.parameters())
    ema.copy_to(network.parameters())
    network.eval()
    try:
        yield
    finally:
        ema.restore(network.parameters())
        network.train()


def _loader(dataset: Dataset, run: RunSettings, first: int, last: int) -> DataLoader:
    return DataLoader(
        dataset,
        batch_size=run.batch_size,
        sampler=EndlessFrom(first, last),
        num_workers=run.workers,
        worker_init_fn=one_thread,
        persistent_workers=run.workers > 0,
        prefetch_factor=4 if run.workers else None,
        drop_last=True,
        pin_memory=torch.cuda.is_available(),
    )


def _agreed(accelerator: Accelerator, *decisions: bool) -> list[bool]:
    """What the main process decided by its clock: others' clocks would have them wait for each other for ever."""
    if accelerator.num_processes == 1:
        return list(decisions)
    told = broadcast(torch.tensor(decisions, dtype=torch.int32, device=accelerator.device))
    return [bool(value) for value in told.tolist()]


def _validate(
    task: Task, ema: EMAModel, folder: Path, progress: Progress, log: Log, accelerator: Accelerator
) -> dict[str, float]:
    """Validates the EMA weights on the main process; the others wait."""
    figures: dict[str, float] = {}
    if accelerator.is_main_process:
        with averaged(ema, task.network), torch.no_grad(), accelerator.autocast():
            figures, sheet = task.validate()
        if sheet is not None:
            (folder / "sheets").mkdir(exist_ok=True)
            sheet.save(folder / "sheets" / f"{progress.step:07d}.png")
        log.write(event="validate", step=progress.step, **{k: round(v, 5) for k, v in figures.items()})
    accelerator.wait_for_everyone()
    return figures


def _save_checkpoint(accelerator: Accelerator, checkpoint: Path) -> None:
    """Writes beside, then renames: a kill at any moment leaves a whole checkpoint, see `_finish_checkpoint`."""
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


def _finish_checkpoint(checkpoint: Path) -> None:
    """Completes a `_save_checkpoint` killed between its two renames, when the old and the new one are both whole."""
    fresh, old = _neighbours(checkpoint)
    if old.exists() and not checkpoint.exists():
        os.replace(fresh if fresh.exists() else old, checkpoint)


def _neighbours(checkpoint: Path) -> tuple[Path, Path]:
    """Where the next checkpoint is written and where the one before is put aside."""
    return checkpoint.with_name("checkpoint.new"), checkpoint.with_name("checkpoint.old")


def _dry_run(task: Task, run: RunSettings, accelerator: Accelerator, count: int) -> None:
    """One batch forward and backward: nothing is written."""
    batch = next(iter(_loader(task.dataset(), dataclasses.replace(run, workers=0), 0, run.batch_size)))
    started = time.monotonic()
    task.network.to(accelerator.device)
    _to_device(task, accelerator.device)
    batch = torch.utils._pytree.tree_map(lambda x: x.to(accelerator.device) if isinstance(x, Tensor) else x, batch)
    with accelerator.autocast():
        loss, _ = task.loss(task.network, batch, torch.Generator().manual_seed(run.seed))
    loss.backward()
    seconds = time.monotonic() - started
    value = float(loss.detach())
    print(f"{count:,} parameters; a batch of {run.batch_size}: loss {value:.4f}, {seconds:.2f} s, {accelerator.device}")
