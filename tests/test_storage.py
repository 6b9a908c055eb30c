"""Model folders: what is saved comes back exactly, and a damaged folder is one clear error that names the file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from patchscaler import PatchScalerPipeline
from patchscaler.errors import WeightsError

FEW = (1, 2, 3)
WEIGHTS = "diffusion_pytorch_model.safetensors"


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


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder: Path, drop: str | None = None, **added: torch.Tensor) -> None:
    tensors = {key: value for key, value in load_file(folder / WEIGHTS).items() if key != drop}
    save_file(tensors | added, folder / WEIGHTS)


DAMAGES: dict[str, Callable[[Path], object]] = {  # by what the message must say
    "config.json: can't be read as JSON": lambda folder: (folder / "config.json").write_text("[1, 2"),
    "config.json: holds no JSON object": lambda folder: (folder / "config.json").write_text("[1, 2]"),
    "config.json: no such file": lambda folder: shutil.rmtree(folder),
    "config.json: unknown key bananas": lambda folder: change_config(folder, bananas=3),
    "config.json: eta must be positive": lambda folder: change_config(folder, eta=-1.0),
    "but config.json asks for": lambda folder: change_config(folder, width=24),
    "class PatchDiT is none of": lambda folder: change_config(folder, _class_name="PatchDiT"),
    "missing tensor exit.bias": lambda folder: change_weights(folder, drop="exit.bias"),
    "unknown tensor extra": lambda folder: change_weights(folder, extra=torch.zeros(1)),
    "not a whole safetensors file": lambda folder: (folder / WEIGHTS).write_bytes(bytes(1000)),
    "no such weights": lambda folder: (folder / WEIGHTS).unlink(),
}


@pytest.mark.parametrize("words", DAMAGES)
def test_damaged_models_are_refused(tiny_model: Path, tmp_path: Path, words: str) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    part = tmp_path / "model" / "restorer"
    DAMAGES[words](part)
    with pytest.raises(WeightsError) as caught:
        PatchScalerPipeline.from_pretrained(tmp_path / "model")
    message = str(caught.value)
    assert words in message
    assert message.startswith(str(part))
    assert "\n" not in message


def test_no_such_model() -> None:
    with pytest.raises(WeightsError, match="no such model folder"):
        PatchScalerPipeline.from_pretrained("./nowhere")
