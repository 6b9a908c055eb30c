"""`patchscaler upscale --backbone`, with pipelines saved as a hub would hold them."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import tiny_backbones
from command_files import Call

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning:transformers.*", "ignore::DeprecationWarning", "ignore::UserWarning:transformers.*"
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Saved pipelines, as a hub would hold them."""
    made = {
        "sd": tiny_backbones.stable_diffusion(8, image=False),
        "x4": tiny_backbones.sd_upscaler(16),
        "ldm": tiny_backbones.latent_diffusion(16),
    }
    root = tmp_path_factory.mktemp("backbones")
    for name, pipe in made.items():
        pipe.save_pretrained(root / name)
    return {name: root / name for name in made}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sd", ("--backbone-style", "stablesr")),
        ("sd", ("--prompt", "a parrot")),
        ("x4", ("--prompt", "a parrot", "--scale", "2")),
        ("ldm", ()),
    ],
)
def test_command_line(upscale: Call, folders: dict[str, Path], photo: Image.Image, name: str, options: Any) -> None:
    photo.resize((30, 22)).save("photo.png")
    answer = upscale("photo.png", "--backbone", folders[name], "-o", "big.png", "--report", "r.json", *options)
    assert (answer.code, answer.err) == (0, "")
    factor = 2 if "--scale" in options else 4
    with Image.open("big.png") as image:
        assert image.size == (factor * 30, factor * 22)
    assert "patches" in Path("r.json").read_text()


def test_transparency_goes_through_the_restorer_alone(upscale: Call, folders: dict[str, Path]) -> None:
    logo = Image.new("RGBA", (20, 16), (200, 40, 40, 255))
    logo.paste((0, 0, 255, 0), (0, 0, 10, 16))
    logo.save("logo.png")
    assert upscale("logo.png", "--backbone", folders["ldm"], "-o", "big.png").code == 0
    with Image.open("big.png") as image:
        assert (image.mode, image.size) == ("RGBA", (80, 64))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--prompt", "x"), "--prompt x: is for a --backbone"),
        (("--backbone", "SD", "--workers", "2"), "--workers: not with --backbone"),
        (("--backbone", "LDM", "--prompt", "x"), "takes no prompt"),
        (("--backbone", "LDM", "--backbone-style", "stablesr"), "can't run as stablesr; choose ldm"),
        (("--backbone", "./nowhere"), "no such folder"),
        (("--backbone", "owner/nothing"), "diffusers can't load it"),
        (("--backbone", "MODEL"), "PatchScalerPipeline has no adapter; there is one for StableDiffusionPipeline"),
    ],
)
def test_what_cannot_be_is_named(
    upscale: Call, folders: dict[str, Path], tiny_model: Path, options: tuple[str, ...], words: str
) -> None:
    Image.new("RGB", (6, 5)).save("photo.png")
    places = {"SD": str(folders["sd"]), "LDM": str(folders["ldm"]), "MODEL": str(tiny_model)}
    answer = upscale("photo.png", *(places.get(option, option) for option in options))
    assert answer.code in (1, 2)
    assert words in answer.err
    assert not Path("photo_x4.png").exists()
