"""A training task: what the loop trains, and what it asks of it."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from patchscaler.errors import ConfigError
from patchscaler.training.settings import RunSettings


@runtime_checkable
class Task(Protocol):
    """What a part brings to the loop.

    A task with more state than the trained parameters (a discriminator and its optimiser, say) lists it, as objects
    with `state_dict` and `load_state_dict`, in an attribute `checkpointed`; its frozen networks in `frozen`. All
    networks go to the device of the training. `skips` says that some steps leave some parameters out; the method
    `rate_of` gives a parameter's learning rate by its name, relative to the run's. An attribute `step`
    is set, where there is one, to the number of the step before its loss is asked for.
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


def mixed_precision(run: RunSettings) -> str:
    """accelerate's name of the run's precision."""
    return "no" if run.precision == "fp32" else run.precision


def trained_parameters(task: Task) -> int:
    return sum(p.numel() for p in task.network.parameters() if p.requires_grad)


def recompute_activations(network: nn.Module) -> None:
    """Gradient checkpointing, in every part that knows it. Raises ConfigError where none does."""
    able: list[Any] = [part for part in network.modules() if hasattr(part, "gradient_checkpointing")]
    if not able:
        raise ConfigError("run.gradient_checkpointing: this part has no network that can; leave it out")
    for part in able:
        part.gradient_checkpointing = True


def parameter_groups(task: Task, run: RunSettings) -> list[dict[str, Any]]:
    """The trained parameters by rate and weight decay: vectors and scalars aren't decayed."""
    rate_of = getattr(task, "rate_of", lambda name: 1.0)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in task.network.named_parameters():
        if parameter.requires_grad:
            key = rate_of(name), run.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault(key, []).append(parameter)
    return [{"params": some, "rate": rate, "weight_decay": decay} for (rate, decay), some in groups.items()]


def to_device(task: Task, device: torch.device) -> None:
    """All networks of a task but the trained one: frozen ones, and what it trains by itself."""
    for part in (*getattr(task, "frozen", ()), *getattr(task, "checkpointed", ())):
        if isinstance(part, nn.Module):
            part.to(device)
