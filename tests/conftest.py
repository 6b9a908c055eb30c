"""Fixtures: a real pipeline of tiny random networks, and small pictures."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from command_files import Answer, Call

if TYPE_CHECKING:
    from serving import Server

import patchscaler.models.base  # noqa: F401  # diffusers' classes, whatever a test calls first
from patchscaler.data.pictures import PictureSet

torch.set_num_threads(1)  # pytest-xdist runs one test process per core


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first: at the end, one process would run them while the others have nothing left to do."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """Run `patchscaler ARGUMENT...` in the test's folder, through the entry point of the installed command."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Answer:
        from patchscaler.cli.main import main

        monkeypatch.setattr(sys, "argv", ["patchscaler", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        return Answer(code, *capsys.readouterr())

    return run


@pytest.fixture
def upscale(call: Call, tiny_model: Path) -> Call:
    """`patchscaler upscale ARGUMENT...` with the networks of the tests and one step for every patch."""
    return lambda *arguments: call("upscale", *arguments, "--model", tiny_model, "--device", "cpu", "--steps", "1,1,1")


@pytest.fixture(scope="session")
def tiny_pipeline():
    from tiny_pipeline import build_tiny_pipeline

    return build_tiny_pipeline()


@pytest.fixture(scope="session")
def tiny_upscaler(tiny_pipeline):
    """The same networks without diffusers around them."""
    from patchscaler.engines.torch import TorchEngine
    from patchscaler.upscaler import Upscaler

    return Upscaler(engine=TorchEngine(tiny_pipeline.parts))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory, tiny_pipeline):
    """A saved folder of the tiny pipeline."""
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory) -> Path:
    """A saved latent diffusion upscaler of diffusers with tiles of 8 small pixels, untrained."""
    import tiny_backbones

    folder = tmp_path_factory.mktemp("backbone")
    tiny_backbones.latent_diffusion(sample_size=8).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """A 61x45 picture with smooth, sharp and noisy regions."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:45, 0:61]
    pixels = np.stack([x * 4, y * 5, 128 + 60 * np.sin(x / 3)], axis=2)
    pixels[20:, 30:] = 255 * (((x // 4 + y // 4) % 2)[20:, 30:, None])
    pixels[:20, 40:] += rng.normal(0, 40, (20, 21, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def training_pictures(tmp_path_factory) -> Path:
    """A folder of four structured pictures, 96x112 to 120x160: what a training set looks like, in small."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(5)
    for number, (height, width) in enumerate([(96, 112), (112, 96), (128, 128), (120, 160)]):
        y, x = np.mgrid[0:height, 0:width]
        waves = [np.sin(x / (2 + number) + c) * np.cos(y / (5 - number) - c) for c in range(3)]
        pixels = 128 + 70 * np.stack(waves, axis=2) + rng.normal(0, 8, (height, width, 3))
        pixels[height // 2 :, : width // 2] = 40 + 150 * (((x // 6 + y // 6) % 2)[height // 2 :, : width // 2, None])
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def pictures(training_pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> PictureSet:
    return PictureSet(str(training_pictures), cache=str(tmp_path_factory.mktemp("cache")), min_side=64)


@pytest.fixture(scope="session")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of AlexNet's convolutions with random weights, as torchvision keeps them."""
    from lpips_weights import write_torchvision
    from patchscaler.metrics.trunks import AlexNetTrunk

    torch.manual_seed(0)
    return write_torchvision(tmp_path_factory.mktemp("features"), AlexNetTrunk()).parent


@pytest.fixture
def fresh_accelerator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Accelerate keeps the precision for the process; and whatever is written without being asked lands in tmp_path."""
    from accelerate.state import AcceleratorState

    monkeypatch.chdir(tmp_path)
    yield
    AcceleratorState._reset_state(True)


@pytest.fixture(params=["file", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder of this machine, and one of a file system that isn't."""
    from patchscaler.cluster.storage import StoragePath

    if request.param == "file":
        return str(tmp_path)
    url = f"memory://{tmp_path.name}"
    folder = StoragePath.at(url)
    folder.fs.mkdirs(folder.path, exist_ok=True)
    return url


@pytest.fixture(scope="session")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Server"]:
    """A running `patchscaler serve` without its page, for uploads of 1 MB and half a megapixel."""
    from serving import serving

    folder = tmp_path_factory.mktemp("server") / "temporary"
    with serving(tiny_model, folder, "--no-page", "--max-megabytes", 1, "--max-megapixels", 0.5) as running:
        yield running


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The frozen parts that later parts are trained on."""
    from patchscaler.models.autoencoder import DctAutoencoder
    from patchscaler.models.fusion import Fusion
    from patchscaler.models.patch_dit import PatchDiT
    from patchscaler.models.restorer import ConvRestorer
    from patchscaler.models.rrdb import RrdbRestorer
    from patchscaler.models.texture import ReferenceTextureMemory, TextureClassifier, TextureEncoder

    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    autoencoder = DctAutoencoder(luma=4, chroma=1, width=8, blocks=1, fine_width=8, fine_blocks=1)
    autoencoder.save_pretrained(folder / "autoencoder")
    ConvRestorer(latent_channels=6, width=8, blocks=1).save_pretrained(folder / "restorer")
    RrdbRestorer(latent_channels=6, width=4, growth=4, blocks=1).save_pretrained(folder / "second_restorer")
    Fusion(latent_channels=6, first_width=8, second_width=4, width=8, blocks=1).save_pretrained(folder / "fusion")
    TextureClassifier(latent_channels=6, width=8, blocks=1, features=8).save_pretrained(folder / "classifier")
    memory = ReferenceTextureMemory(latent_channels=6, sample_size=8, features=8, size=5)
    memory.fill(torch.randn(5, 6, 8, 8), torch.randn(5, 8))
    memory.save_pretrained(folder / "memory")
    patch_dit = PatchDiT(latent_channels=6, sample_size=8, width=16, depth=1, heads=2, texture_width=16)
    encoder = TextureEncoder(latent_channels=6, sample_size=8, width=16, top_k=2)
    for part, name in ((patch_dit, "patch_dit"), (encoder, "texture_encoder")):
        for parameter in part.parameters():  # zero-initialised layers would keep the others from learning
            parameter.data.add_(0.02 * torch.randn_like(parameter))
        part.save_pretrained(folder / name)
    return folder


@pytest.fixture
def table(tmp_path: Path, parts: Path, training_pictures: Path) -> Any:
    """table(part, folder, **run): the settings of a tiny run, as its TOML file has them."""

    def make(part: str, folder: str = "run", **run: Any) -> dict[str, Any]:
        made: dict[str, Any] = {
            "run": {"folder": str(tmp_path / folder), "steps": 3, "batch_size": 2, "learning_rate": 1e-2, "workers": 0}
            | {"precision": "fp32", "warmup_steps": 2, "log_every": 2, "validate_every": 100, "ema_decay": 0.9}
            | run,
            "pictures": {"folder": str(training_pictures), "cache": str(tmp_path / "cache"), "min_side": 64},
            "validation": str(training_pictures),
        }
        if part == "autoencoder":
            model = {"luma": 4, "chroma": 1, "width": 8, "blocks": 1, "fine_width": 8, "fine_blocks": 1}
            return made | {"model": model, "crop": 32, "statistics_crops": 20, "validation_count": 2}
        made["autoencoder"] = str(parts / "autoencoder")
        if part == "restorer":
            return made | {"model": {"width": 8, "blocks": 1}, "pairs": {"crop": 32}, "validation_count": 2}
        made["restorer"] = str(parts / "restorer")
        if part == "fusion":
            made |= {"second_restorer": str(parts / "second_restorer"), "model": {"width": 8, "blocks": 1}}
            made |= {"pairs": {"crop": 64}, "patch": 8, "side": 4, "validation_count": 4}
            return made | {"cache": {"folder": str(tmp_path / "cache"), "count": 6, "workers": 0}}
        if part == "confidence":
            del made["validation"]  # as the texture classifier does
            made |= {"patch_dit": str(parts / "patch_dit"), "pairs": {"crop": 64}}
            return made | {"crops": 3, "held_out": 2, "precision": "fp32"}
        if part == "texture":
            del made["validation"]  # it holds out samples of its own pictures
            model = {"width": 8, "blocks": 1, "features": 8}
            return made | {"model": model, "pairs": {"crop": 32, "mixture": {"bicubic": 1.0}}}
        made |= {"classifier": str(parts / "classifier"), "memory": str(parts / "memory"), "pairs": {"crop": 64}}
        made["cache"] = {"folder": str(tmp_path / "cache"), "count": 6, "workers": 0}
        if part == "finetune":
            made |= {name: str(parts / name) for name in ("patch_dit", "texture_encoder")}
            return made | {"side": 4, "adversarial_after": 1, "validation_count": 2}
        return made | {
            "model": {"sample_size": 8, "width": 16, "depth": 1, "heads": 2},
            "encoder": {"sample_size": 8, "width": 16, "top_k": 2},
            "decode_share": 0.5,
            "validation_count": 1,
        }

    return make
