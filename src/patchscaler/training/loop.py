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
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    ProjectConfiguration,
    broadcast,
)
from diffusers.training_utils import EMAModel
from torch import nn

from patchscaler.errors import ConfigError
from patchscaler.training.checkpoints import finish_checkpoint, keep, save_checkpoint
from patchscaler.training.loader import batches
from patchscaler.training.log import Log, check_tracker
from patchscaler.training.settings import RunSettings, check_settings
from patchscaler.training.task import (
    Task,
    mixed_precision,
    parameter_groups,
    recompute_activations,
    to_device,
    trained_parameters,
)


@dataclasses.dataclass
class Progress:
    """The position that a checkpoint stores beside the tensors; best: the figure of `run.best` so far."""

    step: int = 0
    seconds: float = 0.0
    best: float | None = None

    def state_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.seconds, self.best = int(state["step"]), float(state["seconds"]), state.get("best")


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
    return _Training(task, run, settings).finish()


class _Training:
    """A run in this process: the task with its optimiser and EMA, and where it stands."""

    def __init__(self, task: Task, run: RunSettings, settings: Any) -> None:
        self.task, self.run, self.settings, self.folder = task, run, settings, Path(run.folder)
        check_tracker(run.tracker)
        self.accelerator = accelerator = Accelerator(
            mixed_precision=mixed_precision(run),
            gradient_accumulation_steps=run.accumulation,
            log_with=run.tracker,
            kwargs_handlers=[
                DistributedDataParallelKwargs(find_unused_parameters=getattr(task, "skips", False)),
                InitProcessGroupKwargs(timeout=timedelta(minutes=run.timeout_minutes)),
            ],
            project_config=ProjectConfiguration(project_dir=run.folder, logging_dir=str(self.folder / "tracker")),
            dataloader_config=DataLoaderConfiguration(use_seedable_sampler=False, non_blocking=True),
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        with accelerator.main_process_first():
            check_settings(self.folder / "settings.json", settings)
        if run.gradient_checkpointing:
            recompute_activations(task.network)
        optimizer = torch.optim.AdamW(parameter_groups(task, run), lr=run.learning_rate, betas=run.betas)
        self.progress = Progress()
        self.ema = EMAModel(
            task.network.parameters(), decay=run.ema_decay, use_ema_warmup=True, power=0.75, foreach=True
        )
        with accelerator.local_main_process_first():  # one process of each machine builds caches, the others find them
            self.dataset = task.dataset()
        self.network, self.optimizer = accelerator.prepare(task.network, optimizer)
        to_device(task, accelerator.device)
        torch.backends.cudnn.benchmark = True  # a run's shapes hardly change
        accelerator.register_for_checkpointing(self.progress, self.ema, *getattr(task, "checkpointed", ()))
        self.checkpoint = self.folder / "checkpoint"
        self.log = Log(accelerator, self.folder / "log.jsonl", run.tracker, settings)
        self.figures: dict[str, float] = {}
        self.sums: dict[str, Any] = {}
        self.summed = 0

    def finish(self) -> dict[str, float]:
        """From the newest checkpoint to the last step, or as far as the hours allow; the last validation figures."""
        accelerator, progress, run = self.accelerator, self.progress, self.run
        if accelerator.is_main_process:
            finish_checkpoint(self.checkpoint)
        accelerator.wait_for_everyone()
        if self.checkpoint.exists():
            accelerator.load_state(str(self.checkpoint))
        self.ema.to(accelerator.device)
        started = {"parameters": trained_parameters(self.task), "device": str(accelerator.device)}
        self.log.write("start", progress.step, **started)
        forward: Any = torch.compile(self.network) if run.compile else self.network
        per_step = run.batch_size * run.accumulation * accelerator.num_processes
        loader = accelerator.prepare(batches(self.dataset, run, progress.step * per_step, run.steps * per_step))
        clock = _Clock(progress.seconds)
        if progress.step >= run.steps:  # nothing left to do, but the record still needs its figures
            self._validate()
        for number, batch in enumerate(loader):
            with accelerator.accumulate(self.network):
                self._learn(forward, batch, number % run.accumulation)
            if not accelerator.sync_gradients:
                continue
            self.ema.step(self.task.network.parameters())
            progress.step += 1
            progress.seconds = clock.seconds()
            if progress.step % run.log_every == 0:
                self._log()
            if self._after_step(clock):
                break
        if accelerator.is_main_process:
            self._export("weights")
        accelerator.end_training()
        return self.figures

    def _learn(self, forward: Any, batch: Any, part: int) -> None:
        """Forward and backward of one batch, and the optimiser's step after the last of those that are accumulated."""
        accelerator, run, optimizer, step = self.accelerator, self.run, self.optimizer, self.progress.step
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * run.learning_rate * learning_rate_at(step, run)
        if hasattr(self.task, "step"):
            self.task.step = step
        batch_number = (step * run.accumulation + part) * accelerator.num_processes + accelerator.process_index
        generator = torch.Generator().manual_seed((run.seed * 1_000_003 + batch_number) % 2**63)
        with accelerator.autocast():
            loss, logged = self.task.loss(forward, batch, generator)
        accelerator.backward(loss)
        if accelerator.sync_gradients:
            norm = accelerator.clip_grad_norm_(self.network.parameters(), run.clip_norm)
            self._add({"gradient_norm": norm * run.accumulation})  # the log's means are over batches
            if not torch.isfinite(norm):
                self.log.write("skipped", step, reason="gradient is not finite")
                optimizer.zero_grad(set_to_none=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self._add({"loss": loss.detach(), **logged})
        self.summed += 1  # after a resume fewer than log_every

    def _add(self, values: dict[str, torch.Tensor]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach().float()  # reading it here would wait for it

    def _log(self) -> None:
        means = {name: round(float(value) / self.summed, 5) for name, value in self.sums.items()}
        self.log.write("train", self.progress.step, hours=round(self.progress.seconds / 3600, 4), **means)
        self.sums, self.summed = {}, 0

    def _after_step(self, clock: "_Clock") -> bool:
        """Validation, checkpoint and export where it is time for them; whether the hours are over."""
        run, step = self.run, self.progress.step
        out_of_time = run.max_hours is not None and clock.since_start() > run.max_hours * 3600
        due = clock.since_checkpoint() > run.checkpoint_minutes * 60
        out_of_time, due = _agreed(self.accelerator, out_of_time, due)
        last, kept = step >= run.steps, bool(run.keep_every) and step % run.keep_every == 0
        if step % run.validate_every == 0 or last or out_of_time:
            self._validate()
        if last or out_of_time or due or kept:
            save_checkpoint(self.accelerator, self.checkpoint)
            if self.accelerator.is_main_process:
                self._export("weights")
                if kept:
                    keep(self.folder, step)
            clock.checkpoint = time.monotonic()
        return out_of_time

    def _export(self, name: str) -> None:
        """The EMA weights as inference loads them, and what they are."""
        folder = self.folder / name
        with averaged(self.ema, self.task.network):
            self.task.export(folder)
        record: dict[str, Any] = {"steps": self.progress.step, "hours": round(self.progress.seconds / 3600, 3)}
        record |= {"figures": self.figures, "settings": dataclasses.asdict(self.settings)}
        (folder / "training.json").write_text(json.dumps(record, indent=2))

    def _validate(self) -> None:
        """Validates the EMA weights on the main process, and keeps them if they are the best; the others wait."""
        self.figures = {}
        if self.accelerator.is_main_process:
            with averaged(self.ema, self.task.network), torch.no_grad(), self.accelerator.autocast():
                self.figures, sheet = self.task.validate()
            if sheet is not None:
                (self.folder / "sheets").mkdir(exist_ok=True)
                sheet.save(self.folder / "sheets" / f"{self.progress.step:07d}.png")
            self.log.write("validate", self.progress.step, **{k: round(v, 5) for k, v in self.figures.items()})
            if self.run.best is not None:
                self._keep_best(*self.run.best.split())
        self.accelerator.wait_for_everyone()

    def _keep_best(self, way: str, name: str) -> None:
        if name not in self.figures:
            raise ConfigError(f"run.best names {name}; this part's figures are {', '.join(self.figures)}")
        value, before = self.figures[name], self.progress.best
        if before is None or (value > before if way == "max" else value < before):
            self.progress.best = value
            self._export("best")


@dataclasses.dataclass
class _Clock:
    """Seconds of the calls before, and of this one."""

    before: float
    start: float = dataclasses.field(default_factory=time.monotonic)
    checkpoint: float = dataclasses.field(default_factory=time.monotonic)

    def seconds(self) -> float:
        return self.before + self.since_start()

    def since_start(self) -> float:
        return time.monotonic() - self.start

    def since_checkpoint(self) -> float:
        return time.monotonic() - self.checkpoint


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
