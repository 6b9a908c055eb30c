"""A run counted before it is begun: parameters, memory and arithmetic of a step, on the meta device.

Networks and tensors have shapes and no values, so nothing is allocated, and neither weights nor pictures are read.
"""

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from patchscaler.errors import ConfigError
from patchscaler.presets import PAPER
from patchscaler.training.patch_dit import FrozenParts, PatchDiTSettings, PatchDiTTask
from patchscaler.training.restorer import RestorerSettings, RestorerTask
from patchscaler.training.settings import RunSettings


class Count(NamedTuple):
    """trained, frozen: parameters; state, fixed, activations: bytes of the trained parameters with gradients, Adam's
    moments and EMA, of the frozen ones, and of what a batch keeps for its gradients, all in single precision;
    flops: of one step of one device, forward and backward, products, convolutions and attention alone."""

    trained: int
    frozen: int
    state: int
    fixed: int
    activations: int
    flops: int


def count(settings: Any) -> Count:
    """A step of this run with the `paper` preset's frozen parts; losses in decoded pixels are left out.

    Raises ConfigError for other parts than the restorer and Patch-DiT.
    """
    with torch.device("meta"):
        task = _task(settings)
        crop, batch_size = settings.pairs.crop, settings.run.batch_size
        batch = {"hr": torch.empty(batch_size, 3, crop, crop), "lr": torch.empty(batch_size, 3, crop // 4, crop // 4)}
    trained = _parameters(task.network)
    frozen = sum(_parameters(part) for part in task.frozen)
    # As plain products, since the counter doesn't know the fused attention of every device.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        _loss(task, batch).backward()
    flops, kept = int(counter.get_total_flops()), _saved_bytes(task, batch)
    return Count(trained, frozen, 5 * 4 * trained, 4 * frozen, kept, flops)


def report(found: Count, run: RunSettings) -> str:
    """What was found of a run, in words."""
    gib = 2**30
    return "\n".join(
        (
            "on the meta device, with the paper preset's frozen parts; per device, in single precision",
            f"trained      {found.trained:>13,} parameters  {found.state / gib:>8.2f} GiB with gradients, Adam, EMA",
            f"frozen       {found.frozen:>13,} parameters  {found.fixed / gib:>8.2f} GiB",
            f"activations  {f'batch of {run.batch_size}':>13}             {found.activations / gib:>8.2f} GiB",
            f"one step     {found.flops / 1e12:>13.2f} TFLOP, forward and backward",
            f"{run.steps:,} steps: {found.flops * run.steps / 1e18:.2f} EFLOP",
        )
    )


def _task(settings: Any) -> Any:
    """The task itself, its frozen parts untrained."""
    if isinstance(settings, RestorerSettings):
        plain = {"warm_start": None, "perceptual_weight": 0.0}
        return RestorerTask(dataclasses.replace(settings, **plain), _frozen(PAPER.autoencoder.build()))  # type: ignore[arg-type]
    if isinstance(settings, PatchDiTSettings):
        if settings.model.get("prompt", "texture") != "texture":
            raise ConfigError('--estimate counts a Patch-DiT with prompt = "texture"')
        parts = (PAPER.autoencoder, PAPER.restorer, PAPER.texture_classifier, PAPER.texture_memory)
        own: dict[str, Any] = {"warm_start": None, "decode_share": 0.0, "prompt_dropout": 0.0}
        return PatchDiTTask(
            dataclasses.replace(settings, **own), FrozenParts(*(_frozen(part.build()) for part in parts))
        )
    raise ConfigError("--estimate counts the parts restorer and patch-dit")


def _frozen(network: nn.Module) -> Any:
    return network.eval().requires_grad_(False)


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _loss(task: Any, batch: dict[str, Tensor]) -> Tensor:
    loss: Tensor = task.loss(task.network, batch, torch.Generator().manual_seed(0))[0]
    return loss


def _saved_bytes(task: Any, batch: dict[str, Tensor]) -> int:
    """What autograd keeps between forward and backward, besides the parameters."""
    known = {parameter.untyped_storage()._cdata for parameter in task.network.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            saved[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = _loss(task, batch)
    total = sum(saved.values())
    del loss  # until here everything saved is alive, so that no storage's number is used twice
    return total
