"""Patch-DiT prompted by captions or by nothing: the same networks, loop and sampler, other tokens."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from command_files import Call
from patchscaler.engines.onnx import OnnxEngine
from patchscaler.engines.torch import TorchEngine
from patchscaler.errors import ConfigError, WeightsError
from patchscaler.integrations.diffusers.pipeline import PatchScalerPipeline
from patchscaler.models.latents import decode_latents
from patchscaler.models.model import Model, load_model, pack, unpack
from patchscaler.models.patch_dit import PatchDiT
from patchscaler.models.text_prompt import Captions, token_width
from patchscaler.upscaler import Upscaler
from random_networks import randn
from text_networks import TEXTURE, TOKENS, WIDTH, prompted, save_text_networks


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return save_text_networks(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def folders(tiny_pipeline: Any, texts: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A saved model of each prompt but texture."""
    root = tmp_path_factory.mktemp("models")
    prompted(tiny_pipeline, prompt="text", texture_width=WIDTH, **texts).save_pretrained(root / "text")
    prompted(tiny_pipeline, prompt="none").save_pretrained(root / "none")
    return {name: root / name for name in ("text", "none")}


@pytest.fixture(scope="module")
def text_model(folders: dict[str, Path]) -> Model:
    return load_model(folders["text"], torch.float32)


def test_a_caption_is_one_of_the_patch(texts: dict[str, str]) -> None:
    """Words alone, the same in any batch; and tokens of the text alone."""
    written = Captions(**texts, device=torch.device("cpu"))
    pixels = torch.rand(3, 3, 40, 40) * torch.tensor([0.0, 0.5, 1.0])[:, None, None, None]
    found = written.describe(pixels)
    assert len(set(found)) > 1
    assert all(word.startswith("word") for text in found for word in text.split())
    assert written.describe(pixels[1:]) == found[1:]
    tokens = written.tokens(found)
    assert tokens.shape == (3, TOKENS, WIDTH)
    assert token_width(texts["text_encoder"]) == WIDTH
    torch.testing.assert_close(written.tokens(found[2:]), tokens[2:])


def test_the_prompt_is_the_tokens_of_the_coarse_patchs_caption(texts: dict[str, str], text_model: Model) -> None:
    patches = randn(0, 3, 32, 16, 16)
    written = Captions(**texts, device=torch.device("cpu"))
    tokens = written.tokens(written.describe(decode_latents(text_model.autoencoder, patches).clamp(0, 1)))
    torch.testing.assert_close(text_model.prompt(patches).keys, text_model.patch_dit.texture_cache(tokens).keys)


def test_a_text_prompted_model_enlarges_and_is_saved_without_textures(folders: dict[str, Path], photo: Any) -> None:
    assert not [name for name in TEXTURE if (folders["text"] / name).exists()]
    loaded = PatchScalerPipeline.from_pretrained(folders["text"], dtype="auto")  # the precision that Upscaler takes
    options: dict[str, Any] = {"steps": (1, 2, 3), "seed": 3}
    upscaler = Upscaler(folders["text"])  # "auto", for which torch remains
    assert isinstance(upscaler.engine, TorchEngine)
    own = np.asarray(loaded(photo, output_type="np", **options).images)[0]
    np.testing.assert_allclose(np.asarray(upscaler(photo, **options).image) / 255, own, atol=0.004)
    without = np.asarray(loaded(photo, output_type="np", use_texture=False, **options).images)[0]
    assert np.abs(own - without).max() > 1e-4
    with pytest.raises(ConfigError, match="not offloaded, quantized, prompted by text"):
        loaded(photo, workers=2)


def test_the_light_engine_refuses_it_in_one_line(
    folders: dict[str, Path], call: Call, photo: Any, tmp_path: Path
) -> None:
    for prompt, folder in folders.items():
        with pytest.raises(ConfigError, match=f'prompt = "{prompt}" has no graphs: use --engine torch'):
            OnnxEngine(folder)
    photo.save(tmp_path / "a.png")
    answer = call("upscale", "a.png", "--model", folders["text"], "--engine", "onnx")
    assert answer.code
    assert "use --engine torch" in answer.err
    assert len(answer.err.strip().splitlines()) == 1


def test_a_model_without_prompt_has_no_cross_attention(folders: dict[str, Path], photo: Any) -> None:
    model = load_model(folders["none"], torch.float32)
    assert not [name for name in model.patch_dit.state_dict() if "texture" in name]
    engine = TorchEngine(model)
    assert engine.model.prompt_limit == -np.inf
    options: dict[str, Any] = {"steps": (1, 2, 3)}
    own = np.asarray(Upscaler(engine=engine)(photo, **options).image)
    assert np.array_equal(own, np.asarray(Upscaler(engine=engine)(photo, use_texture=False, **options).image))
    again = unpack(pack(model), "cpu")  # as a worker gets it
    assert again.texture_memory is None
    x, t = randn(1, 2, 32, 16, 16), torch.tensor([5, 5])
    arguments = x, t, randn(2, 2, 32, 16, 16), randn(3, 2, 1, 16, 16)
    assert torch.equal(again.patch_dit(*arguments), model.patch_dit(*arguments))


def test_what_does_not_fit_is_named(
    folders: dict[str, Path], texts: dict[str, str], text_model: Model, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match='prompt "image": choose texture, text, none'):
        PatchDiT(prompt="image")
    shutil.copytree(folders["text"], tmp_path / "model")
    config = tmp_path / "model/patch_dit/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prompt": "texture"}))
    with pytest.raises(WeightsError, match="texture_classifier"):
        load_model(tmp_path / "model", torch.float32)
    absent = PatchDiT(prompt="text", texture_width=WIDTH, **texts | {"captioner": str(tmp_path / "nowhere")})
    with pytest.raises(WeightsError, match=r"text prompts: no AutoTokenizer in .*nowhere"):
        dataclasses.replace(text_model, patch_dit=absent).prompt(randn(0, 1, 32, 16, 16))
