"""One training loop for every learned part: accelerate, EMA, checkpoints by the clock, exact resume.

All randomness of a step is a function of (seed, step), and the batch of a step is samples step * batch_size onwards of
a dataset that is a function of (seed, index). So a checkpoint needs the position, the weights, their EMA and the
optimiser, and a resumed run is the run that was never stopped.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration, broadcast
from diffusers.training_utils import EMAModel
from torch import nn

from patchscaler.training.checkpoints import finish_checkpoint, save_checkpoint
from patchscaler.training.loader import batches
from patchscaler.training.settings import RunSettings, as_dict, check_settings
from patchscaler.training.task import Task, mixed_precision, parameter_groups, to_device, trained_parameters


@dataclasses.dataclass
class Progress:
    """The position that a checkpoint stores beside the tensors."""

    step: int = 0
    seconds: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.seconds = int(state["step"]), float(state["seconds"])


class Log:
    """One JSON object a line, appended to a file; and on standard output."""

    def __init__(self, path: Path, active: bool) -> None:
        self.path, self.active = path, active

    def write(self, **entry: Any) -> None:
        if self.active:
            line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S"), **entry})
            with open(self.path, "a") as stream:
                stream.write(line + "\n")
            print(line, flush=True)


def learning_rate_at(step: int, run: RunSettings) -> float:
    """Warm-up, constant, then linear decay to 0 over the last `decay_steps`; a factor in [0,1]."""
    warm = min(1.0, (step + 1) / max(1, run.warmup_steps))
    left = (run.steps - step) / run.decay_steps if run.decay_steps else 1.0
    return min(warm, max(0.0, left), 1.0)


def train(task: Task, run: RunSettings, settings: Any) -> dict[str, float]:
    """Runs or resumes a training run; returns the last validation figures.

    `settings` is recorded in the run folder; a folder that was begun with other settings is refused (ConfigError), but
    for run.steps, decay_steps, max_hours and the intervals, which may change between calls.
    """
    folder = Path(run.folder)
    accelerator = Accelerator(
        mixed_precision=mixed_precision(run),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=getattr(task, "skips", False))],
        project_config=ProjectConfiguration(project_dir=run.folder),
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=False, non_blocking=True),
    )
    folder.mkdir(parents=True, exist_ok=True)
    with accelerator.main_process_first():
        check_settings(folder / "settings.json", settings)

    optimizer = torch.optim.AdamW(parameter_groups(task, run), lr=run.learning_rate, betas=run.betas)
    progress = Progress()
    ema = EMAModel(task.network.parameters(), decay=run.ema_decay, use_ema_warmup=True, power=0.75, foreach=True)
    with accelerator.local_main_process_first():  # one process of each machine builds caches, the others find them
        dataset = task.dataset()
    network, optimizer = accelerator.prepare(task.network, optimizer)
    to_device(task, accelerator.device)
    torch.backends.cudnn.benchmark = True  # a run's shapes hardly change
    accelerator.register_for_checkpointing(progress, ema, *getattr(task, "checkpointed", ()))
    checkpoint = folder / "checkpoint"
    if accelerator.is_main_process:
        finish_checkpoint(checkpoint)
    accelerator.wait_for_everyone()
    if checkpoint.exists():
        accelerator.load_state(str(checkpoint))
    ema.to(accelerator.device)
    log = Log(folder / "log.jsonl", accelerator.is_main_process)
    log.write(event="start", step=progress.step, parameters=trained_parameters(task), device=str(accelerator.device))

    forward: Any = torch.compile(network) if run.compile else network
    per_step = run.batch_size * accelerator.num_processes
    loader = accelerator.prepare(batches(dataset, run, progress.step * per_step, run.steps * per_step))
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
            save_checkpoint(accelerator, checkpoint)
            if accelerator.is_main_process:
                _export(task, ema, folder, progress, figures, settings)
            last_checkpoint = time.monotonic()
        if out_of_time:
            break
    if accelerator.is_main_process:
        _export(task, ema, folder, progress, figures, settings)
    accelerator.end_training()
    return figures


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
