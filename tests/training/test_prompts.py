"""Patch-DiT trains with captions or without a prompt by the loop that textures have, to a model that runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from command_files import Call
from patchscaler.cli.train import Part, types_of
from patchscaler.errors import ConfigError, WeightsError
from patchscaler.models.text_prompt import captions
from patchscaler.storage import WEIGHTS_FILE
from patchscaler.training.settings import build
from text_networks import WIDTH, save_text_networks
from training_runs import run_training

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


def without_textures(table: Any, prompt: str, **run: Any) -> dict[str, Any]:
    """The settings of a run with this prompt: no classifier, no memory."""
    made: dict[str, Any] = table("patch-dit", **run)
    texts = save_text_networks(Path(made["run"]["folder"]).parent / "texts") if prompt == "text" else {}
    made["model"] |= {"prompt": prompt, **texts}
    del made["classifier"], made["memory"]
    return made


@pytest.mark.parametrize("prompt", ["text", "none"])
def test_a_patch_dit_of_another_prompt_is_trained_and_runs(
    prompt: str, table: Any, parts: Path, call: Call, training_pictures: Path, tmp_path: Path
) -> None:
    settings = without_textures(table, prompt, steps=2) | {"prompt_dropout": 0.0}
    figures = run_training("patch-dit", settings)
    assert all(np.isfinite(value) for value in figures.values())
    weights = tmp_path / "run/weights"
    assert sorted(path.name for path in weights.iterdir()) == ["patch_dit", "training.json"]
    tensors = load_file(weights / "patch_dit" / WEIGHTS_FILE)
    read = [name for name in tensors if name.endswith("texture_key_value.weight")]
    assert [tensors[name].shape[1] for name in read] == ([WIDTH] if prompt == "text" else [])
    config = json.loads((weights / "patch_dit/config.json").read_text())
    assert (config["prompt"], config.get("texture_width")) == (prompt, WIDTH if prompt == "text" else 256)
    folders = {"autoencoder": parts / "autoencoder", "restorer": parts / "restorer", "patch-dit": weights / "patch_dit"}
    options = [part for name, folder in folders.items() for part in (f"--{name}", folder)]
    assert call("assemble", "model", *options).code == 0
    assert not list((tmp_path / "model").glob("texture_*"))
    with Image.open(training_pictures / "0.png") as picture:
        picture.crop((0, 0, 24, 20)).save(tmp_path / "small.png")
    answer = call("upscale", "small.png", "--model", "model", "--engine", "torch", "--steps", "1,1,1", "-o", "x4.png")
    assert answer.code == 0
    with Image.open(tmp_path / "x4.png") as result:
        assert result.size == (96, 80)


def test_the_loss_depends_on_the_captions(table: Any) -> None:
    """With the same draws, and other words."""
    settings_type, task_type = types_of(Part.patch_dit)
    task = task_type(build(settings_type, without_textures(table, "text") | {"prompt_dropout": 0.0}))
    for parameter in task.network.patch_dit.parameters():  # zero-initialised layers would hide the prompt
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    samples = [task.dataset()[index] for index in range(2)]
    batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
    config = task.network.patch_dit.config
    text = captions(config["captioner"], config["text_encoder"], torch.device("cpu"))
    losses = [float(task.loss(task.network, batch, torch.Generator().manual_seed(0))[0].detach()) for _ in range(2)]
    assert losses[0] == losses[1]
    text.encoder.get_input_embeddings().weight.data.mul_(-1)
    assert float(task.loss(task.network, batch, torch.Generator().manual_seed(0))[0].detach()) != losses[0]


def test_what_a_prompt_needs_is_named(table: Any, parts: Path, tmp_path: Path) -> None:
    settings_type, task_type = types_of(Part.patch_dit)
    settings = table("patch-dit")
    del settings["memory"]
    with pytest.raises(ConfigError, match="needs classifier and memory: name their folders"):
        task_type(build(settings_type, settings))
    settings = without_textures(table, "none") | {"warm_start": str(parts)}
    with pytest.raises(ConfigError, match=r'warm_start has prompt "texture", model\.prompt is "none"'):
        task_type(build(settings_type, settings))
    settings = without_textures(table, "text")
    settings["model"]["text_encoder"] = str(tmp_path / "nowhere")
    with pytest.raises(WeightsError, match=r"text prompts: no CLIPTextConfig in .*nowhere"):
        task_type(build(settings_type, settings))
