"""The paper's recipe: its configs are its preset, it trains with every kind of part, and on two processes."""

import dataclasses
import json
import math
import signal
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from patchscaler.cli.train import Part, types_of
from patchscaler.data.pictures import PicturePool, PictureSet
from patchscaler.errors import ConfigError, DataError
from patchscaler.integrations.diffusers.assembly import assemble
from patchscaler.integrations.diffusers.pipeline import PatchScalerPipeline
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.models.restorer import ConvRestorer
from patchscaler.models.texture import ReferenceTextureMemory, TextureClassifier
from patchscaler.presets import PAPER, build_networks
from patchscaler.storage import WEIGHTS_FILE
from patchscaler.training import estimate
from patchscaler.training.patch_dit import PatchDiTTask
from patchscaler.training.settings import build, read_toml
from patchscaler.training.texture import build_memory
from training_runs import assert_same, entries, run_training
from two_processes import Doomed, train_together

CONFIGS = Path(__file__).parents[2] / "configs" / "paper"
REDUCED = PAPER.changed(
    autoencoder={"block_out_channels": (8, 8, 16, 16), "layers_per_block": 1, "norm_num_groups": 4},
    restorer={"width": 12, "groups": 1, "blocks": 2, "heads": 2},
    patch_dit={"width": 32, "depth": 1, "heads": 2, "texture_width": 16},
    texture_classifier={"width": 8, "blocks": 1, "features": 8},
    texture_encoder={"width": 16, "top_k": 2},
    texture_memory={"size": 5, "features": 8},
)


pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture(scope="module")
def shards(training_pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training pictures in two tar files, with what webdataset puts beside them."""
    folder = tmp_path_factory.mktemp("shards")
    files = sorted(training_pictures.iterdir())
    for number, own in enumerate((files[:2], files[2:])):
        with tarfile.open(folder / f"shard-{number:02d}.tar", "w") as tar:
            for path in own:
                tar.add(path, path.name)
                text = folder / f"{path.stem}.json"
                text.write_text("{}")
                tar.add(text, text.name)
                text.unlink()
    return folder


def settings_of(part: str) -> Any:
    settings_type, _ = types_of(Part(part))
    return build(settings_type, read_toml(CONFIGS / f"{part}.toml"))


def test_the_paper_configs_are_the_paper_preset() -> None:
    restorer, dit, texture = (settings_of(part) for part in ("restorer", "patch-dit", "texture"))
    assert restorer.model.pop("network") == PAPER.restorer.network.__name__
    for own, part in (
        (restorer.model, PAPER.restorer),
        (dit.model, PAPER.patch_dit),
        (dit.encoder, PAPER.texture_encoder),
        (texture.model, PAPER.texture_classifier),
    ):
        assert {"latent_channels": 4, **own} | {"texture_width": 1024} == part.config | {"texture_width": 1024}
    for settings in (restorer, dit):
        run = settings.run
        assert (run.batch_size, run.learning_rate, run.weight_decay, run.betas) == (6, 5e-5, 0.0, (0.9, 0.999))
    assert (restorer.run.steps, restorer.run.steps + dit.run.steps) == (100_000, 700_000)


def test_a_run_is_counted_without_being_built() -> None:
    """At the paper's widths and a twelfth of Patch-DiT's depth. Nothing is read or written."""
    full = settings_of("patch-dit")
    dit = dataclasses.replace(full, model={**full.model, "depth": 2})
    found = estimate.count(dit)
    with torch.device("meta"):
        networks = build_networks(PAPER.changed(patch_dit={"depth": 2}))
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in networks._asdict().items()}
    assert found.trained == sizes["patch_dit"] + sizes["texture_encoder"]
    assert found.frozen == sizes["autoencoder"] + sizes["restorer"] + sizes["texture_classifier"]
    assert found.state == 20 * found.trained
    # A step back is twice a step forth. Before them a crop is encoded and restored, docs/paper-preset.md.
    crop, latents = 256**2 / 2**20, 32**2
    before = 2 * dit.run.batch_size * (crop * 2_439_475.36e6 + latents * 16.19e6)
    trained = 3 * 2 * dit.run.batch_size * (22_963.29e6 + 3_221.23e6) * 2 / 24
    assert before + trained < found.flops < 1.3 * (before + trained)
    assert 0.03 * 2**30 < found.activations < 2**30
    assert f"{found.trained:,} parameters" in estimate.report(found, dit.run).splitlines()[1]
    with pytest.raises(ConfigError, match="counts the parts restorer and patch-dit"):
        estimate.count(settings_of("texture"))
    assert not list(Path().iterdir())


def test_the_papers_parts_train_one_after_the_other(shards: Path, training_pictures: Path, tmp_path: Path) -> None:
    """AutoencoderKL, SwinRestorer, pictures from tar files and crops restored as they come, to a model that runs."""
    torch.manual_seed(0)
    vae: Any = REDUCED.autoencoder.build()
    vae.save_pretrained(tmp_path / "vae")
    run = {"steps": 2, "batch_size": 2, "workers": 0, "precision": "fp32", "log_every": 1, "validate_every": 100}
    pictures = {"folder": str(shards), "decode": False, "min_side": 64, "cache": str(tmp_path / "cache")}
    common = {"pictures": pictures, "autoencoder": "vae"}
    validation = {"validation": str(training_pictures), "validation_count": 1}

    def own(part: str) -> dict[str, Any]:
        return {k: v for k, v in getattr(REDUCED, part).config.items() if k not in ("latent_channels", "texture_width")}

    restorer = {"network": "SwinRestorer", **own("restorer")}
    with pytest.raises(ConfigError, match="DctAutoencoder alone; set both to 0"):
        run_training("restorer", {**common, **validation, "run": {**run, "folder": "no"}, "model": restorer})
    table = {**common, **validation, "pixel_weight": 0.0, "pairs": {"crop": 64}, "model": restorer}
    figures = run_training("restorer", {**table, "run": {**run, "folder": "restorer"}})
    classifier = {**common, "restorer": "restorer/weights", "pairs": {"crop": 64}, "model": own("texture_classifier")}
    run_training("texture", {**classifier, "run": {**run, "folder": "texture"}})
    large = tmp_path / "large"
    large.mkdir()
    for path in training_pictures.iterdir():
        with Image.open(path) as picture:
            picture.resize((150, 140)).save(large / path.name)
    common["pictures"] = {**pictures, "folder": str(large)}
    build_memory(PictureSet("large", min_side=64), "vae", "texture/weights", "memory", size=5, candidates=6)
    table = {**common, **validation, "restorer": "restorer/weights", "classifier": "texture/weights"}
    table |= {"memory": "memory", "decode_share": 0.5, "pairs": {"crop": 128}, "cache": {"count": 0}}
    table |= {"model": own("patch_dit"), "encoder": own("texture_encoder")}
    figures |= run_training("patch-dit", {**table, "run": {**run, "folder": "patch-dit"}})
    assert all(math.isfinite(value) for value in figures.values())
    assert load_file(tmp_path / "patch-dit/weights/patch_dit" / WEIGHTS_FILE)
    places = {"autoencoder": "vae", "restorer": "restorer/weights", "patch_dit": "patch-dit/weights/patch_dit"}
    places |= {"texture_encoder": "patch-dit/weights/texture_encoder", "texture_classifier": "texture/weights"}
    places |= {"texture_memory": "memory"}
    assemble({name: tmp_path / place for name, place in places.items()}, tmp_path / "model")
    pipeline = PatchScalerPipeline.from_pretrained(tmp_path / "model", dtype=torch.float32)
    small = Image.new("RGB", (20, 12), "teal")
    assert pipeline(small, steps=(1, 1, 1)).images[0].size == (80, 48)


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_pictures_read_as_they_are_drawn_are_the_decoded_ones(
    kind: str, shards: Path, training_pictures: Path, tmp_path: Path
) -> None:
    decoded = PicturePool(PictureSet(str(training_pictures), cache=str(tmp_path / "a"), min_side=64))
    folder = training_pictures if kind == "folder" else shards
    table = PictureSet(str(folder), cache=str(tmp_path / "b"), min_side=64, decode=False)
    for pool in (PicturePool(table), PicturePool(table)):  # the second time from the index
        assert len(pool) == 4
        for index in range(12):
            assert torch.equal(pool.crop(3, index, 48), decoded.crop(3, index, 48))
    assert [path.suffix for path in (tmp_path / "b").iterdir()] == [".json"]


def test_shards_that_cannot_be_read_are_named(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"set pictures\.decode = false"):
        PicturePool(PictureSet(str(shards)))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.tar").write_bytes(b"\x1f\x8b" + bytes(2000))
    with pytest.raises(DataError, match=r"a\.tar: not a plain tar file"):
        PicturePool(PictureSet(str(tmp_path / "broken"), decode=False))
    (tmp_path / "empty").mkdir()
    with tarfile.open(tmp_path / "empty" / "b.tar", "w"):
        pass
    with pytest.raises(DataError, match="no pictures in its tar files"):
        PicturePool(PictureSet(str(tmp_path / "empty"), decode=False))


def test_two_processes_killed_and_resumed_are_two_never_stopped(
    shards: Path, training_pictures: Path, tmp_path: Path
) -> None:
    """Some steps have no prompt, and then the texture encoder learns in one process or in neither."""
    torch.manual_seed(0)
    DctAutoencoder(luma=4, chroma=1, width=8, blocks=1, fine_width=8, fine_blocks=1).save_pretrained("autoencoder")
    ConvRestorer(latent_channels=6, width=8, blocks=1).save_pretrained("restorer")
    TextureClassifier(latent_channels=6, width=8, blocks=1, features=8).save_pretrained("classifier")
    memory = ReferenceTextureMemory(latent_channels=6, sample_size=8, features=8, size=5)
    memory.fill(torch.randn(5, 6, 8, 8), torch.randn(5, 8))
    memory.save_pretrained("memory")
    table: dict[str, Any] = {
        "pictures": {"folder": str(shards), "decode": False, "min_side": 64, "cache": str(tmp_path / "cache")},
        "validation": str(training_pictures),
        "validation_count": 1,
        **{name: str(tmp_path / name) for name in ("autoencoder", "restorer", "classifier", "memory")},
        "model": {"sample_size": 8, "width": 16, "depth": 1, "heads": 2},
        "encoder": {"sample_size": 8, "width": 16, "top_k": 2},
        "pairs": {"crop": 80},
        "cache": {"count": 0},
        "decode_share": 0.0,
        "prompt_dropout": 0.5,
    }
    run = {"steps": 6, "batch_size": 2, "learning_rate": 1e-2, "workers": 0, "precision": "fp32", "log_every": 1}
    run |= {"validate_every": 100, "ema_decay": 0.9, "checkpoint_minutes": 0.0}
    whole, broken = ({**table, "run": {**run, "folder": str(tmp_path / name)}} for name in ("whole", "broken"))
    codes = train_together((PatchDiTTask, whole), (Doomed, broken))
    assert codes[1] == -signal.SIGKILL
    steps = [
        json.loads((tmp_path / name / "weights" / "training.json").read_text())["steps"] for name in ("whole", "broken")
    ]
    assert steps[0] == run["steps"] > steps[1]  # weights are exported along with each checkpoint
    assert train_together((PatchDiTTask, broken)) == [0, 0]
    starts = [line["step"] for line in entries(tmp_path / "broken", "start")]
    assert starts[0] == 0
    assert starts[1] in (2, 3)
    assert_same("patch-dit", tmp_path / "whole", tmp_path / "broken")
