"""The file for spandrel: the restorer's picture, from one file of weights, without any other of ours."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from command_files import Call
from patchscaler import Upscaler
from patchscaler.errors import ConfigError
from patchscaler.imaging.sources import picture_from
from patchscaler.integrations.spandrel import CONFIG, CoarseUpscaler, export, register
from patchscaler.models.model import load_model


@pytest.fixture
def weights(call: Call, tmp_path: Path) -> Path:
    answer = call("export", "spandrel", "patchscaler_x4.safetensors")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("patchscaler_x4.safetensors  ")
    return tmp_path / "patchscaler_x4.safetensors"


def assert_restored(made: torch.Tensor, small: Image.Image) -> None:
    expected = Upscaler()(small, steps=(0, 0, 0), denoise=0.0).pixels
    difference = np.abs(made.detach().numpy() - expected)
    assert difference.mean() < 2e-3  # the weights' rounding, here and there
    assert difference.max() < 3e-2


def test_it_makes_the_restorers_picture(weights: Path, photo: Image.Image) -> None:
    tensors = load_file(weights)
    model = CoarseUpscaler(**json.loads(bytes(tensors.pop(CONFIG).tolist())))
    model.load_state_dict(tensors)
    for size in ((31, 20), (1, 1)):  # odd sides
        small = photo.resize(size)
        assert_restored(model(torch.from_numpy(picture_from(small).pixels)), small)


def test_spandrel_loads_it(weights: Path, photo: Image.Image) -> None:
    spandrel = pytest.importorskip("spandrel", reason="pip install spandrel torchvision")
    register()
    register()  # once is enough
    model = spandrel.ModelLoader().load_from_file(weights)
    assert (model.scale, model.purpose, model.architecture.id) == (4, "SR", "PatchScaler")
    small = photo.resize((31, 20))
    assert_restored(model(torch.from_numpy(picture_from(small).pixels)), small)


def test_other_networks_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    model = replace(load_model(tiny_model, torch.float32), autoencoder=torch.nn.Identity())
    with pytest.raises(ConfigError, match="has ConvRestorer and Identity; only ConvRestorer and DctAutoencoder can be"):
        export(model, tmp_path / "a.safetensors")
