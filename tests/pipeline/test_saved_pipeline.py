"""A saved pipeline comes back as it was; settings that can't be and names that lead nowhere are refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from patchscaler import PatchScalerPipeline
from patchscaler.errors import WeightsError

FEW = (1, 2, 3)


def test_a_saved_pipeline_gives_the_same_picture(
    tiny_pipeline: PatchScalerPipeline, tiny_model: Path, photo: Image.Image, tmp_path: Path
) -> None:
    loaded = PatchScalerPipeline.from_pretrained(tiny_model, dtype=torch.float32)
    for name, part in tiny_pipeline.components.items():
        if name != "scheduler":
            saved, found = part.state_dict(), getattr(loaded, name).state_dict()
            assert saved.keys() == found.keys()
            assert all(torch.equal(saved[key], found[key]) for key in saved)
            assert not getattr(loaded, name).training
    result = loaded(photo, steps=FEW, output_type="pt").images
    # Not to the last bit: tensors that lie in a mapped file are aligned otherwise, and so are the sums over them.
    expected = tiny_pipeline(photo, steps=FEW, output_type="pt").images
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)

    loaded.save_pretrained(tmp_path)
    again = PatchScalerPipeline.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(result, again(photo, steps=FEW, output_type="pt").images)


def test_the_overlap_is_saved_too(tiny_pipeline: PatchScalerPipeline, photo: Image.Image, tmp_path: Path) -> None:
    wide = PatchScalerPipeline(**tiny_pipeline.components, overlap=8)
    wide.save_pretrained(tmp_path)
    loaded = PatchScalerPipeline.from_pretrained(tmp_path, dtype=torch.float32)
    assert loaded.config["overlap"] == 8
    assert tuple(loaded(photo, steps=(0, 0, 0)).groups.shape) == (2, 3)


def test_bfloat16_is_close(tiny_model: Path, photo: Image.Image) -> None:
    half = PatchScalerPipeline.from_pretrained(tiny_model, dtype=torch.bfloat16)
    whole = PatchScalerPipeline.from_pretrained(tiny_model, dtype=torch.float32)
    images = [pipe(photo, gammas=(0.2, 0.1), steps=FEW, output_type="pt").images for pipe in (half, whole)]
    assert (images[0] - images[1]).abs().mean() < 1e-2


@pytest.mark.parametrize(
    ("config", "words"), [([1, 2], "holds no JSON object"), ({"eta": -1.0}, "eta must be positive")]
)
def test_impossible_configs_are_refused(tiny_model: Path, tmp_path: Path, config: object, words: str) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    path = tmp_path / "model" / "restorer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config if isinstance(config, dict) else config))
    with pytest.raises(WeightsError, match=words) as caught:
        PatchScalerPipeline.from_pretrained(tmp_path / "model")
    assert str(path.parent) in str(caught.value)


def test_no_such_model() -> None:
    with pytest.raises(WeightsError, match="no such model folder"):
        PatchScalerPipeline.from_pretrained("./nowhere")


def test_loading_in_half_precision_rounds_once(tiny_model: Path) -> None:
    """diffusers builds a model with the wanted dtype as the default one; what our code computes then is still exact."""
    half = PatchScalerPipeline.from_pretrained(tiny_model, dtype=torch.bfloat16).patch_dit
    exact = PatchScalerPipeline.from_pretrained(tiny_model, dtype=torch.float32).patch_dit
    assert torch.equal(half.positions.bfloat16(), exact.positions.bfloat16())
