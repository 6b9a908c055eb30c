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

from patchscaler.cli.train import Part, types_of
from patchscaler.data.pictures import PicturePool, PictureSet
from patchscaler.errors import ConfigError, DataError
from patchscaler.integrations.diffusers.assembly import assemble
from patchscaler.integrations.diffusers.pipeline import PatchScalerPipeline
from patchscaler.presets import PAPER, build_networks
from patchscaler.training import estimate
from patchscaler.training.calibrate import calibrate
from patchscaler.training.memory import build_memory
from patchscaler.training.settings import build, read_toml
from training_runs import assert_same, entries
from two_processes import Run, train_together

CONFIGS = Path(__file__).parents[2] / "configs" / "paper"
REDUCED = PAPER.changed(
    autoencoder={"block_out_channels": (8, 8, 16, 16), "layers_per_block": 1, "norm_num_groups": 4},
    restorer={"width": 12, "groups": 1, "blocks": 2, "heads": 2},
    patch_dit={"sample_size": 8, "width": 32, "depth": 1, "heads": 2, "texture_width": 16},
    texture_classifier={"width": 8, "blocks": 1, "features": 8},
    texture_encoder={"sample_size": 8, "width": 16, "top_k": 2},
    texture_memory={"sample_size": 8, "size": 5, "features": 8},
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


class Killed(Exception):
    """Stands for the end of this process."""


def own(part: str) -> dict[str, Any]:
    """The reduced preset's settings of a part, as a run's [model] has them."""
    return {k: v for k, v in getattr(REDUCED, part).config.items() if k not in ("latent_channels", "texture_width")}


def stages(root: Path, shards: Path, validation: Path) -> dict[str, dict[str, Any]]:
    """The settings of docs/paper-training.md's runs at reduced size, in the folder `root`."""
    run = {"steps": 4, "batch_size": 1, "learning_rate": 1e-2, "workers": 0, "precision": "fp32", "warmup_steps": 1}
    run |= {"log_every": 1, "validate_every": 100, "ema_decay": 0.9, "checkpoint_minutes": 0.0}
    pictures = {"folder": str(shards), "decode": False, "min_side": 64, "cache": str(root / "cache")}
    pairs = {"crop": 64, "mixture": {"real_esrgan": 1.0}}
    common = {"pictures": pictures, "autoencoder": str(root.parent / "vae"), "pairs": pairs}
    judged = {"validation": str(validation), "validation_count": 1}

    def table(part: str, **settings: Any) -> dict[str, Any]:
        return {**common, "run": {**run, "folder": str(root / part)}, **settings}

    grm = {"network": "SwinRestorer", **own("restorer")}
    return {
        "restorer": table("restorer", **judged, model=grm, pixel_weight=0.0),
        "texture": table(
            "texture", restorer=str(root / "restorer/weights"), model=own("texture_classifier"), held_out=4
        ),
        "patch-dit": table(
            "patch-dit",
            **judged,
            **{"restorer": str(root / "restorer/weights"), "classifier": str(root / "texture/weights")},
            **{"memory": str(root / "memory"), "model": own("patch_dit"), "encoder": own("texture_encoder")},
            **{"decode_share": 0.0, "cache": {"count": 0}, "prompt_dropout": 0.5, "restorer_steps": 2},
        ),
    }


def memory_of(root: Path, shards: Path, killed: bool = False) -> None:
    """Textures of 8 latents from a grid over tar files."""
    done = []

    def seen(count: int) -> None:
        done.append(count)
        if killed:
            raise Killed

    pictures = PictureSet(str(shards), min_side=64, decode=False, cache=str(root / "cache"))
    vae, classifier = str(root.parent / "vae"), str(root / "texture/weights")
    build_memory(pictures, vae, classifier, str(root / "memory"), 5, 0, patch=8, stride=4, on_candidate=seen)
    assert done == [25]  # every patch of the four pictures


@pytest.mark.slow
def test_the_papers_sequence_killed_at_every_stage_is_the_one_never_stopped(
    shards: Path, training_pictures: Path, tmp_path: Path
) -> None:
    """AutoencoderKL, SwinRestorer, tar files and crops restored as they come, in two processes, to a model that runs.

    Some steps have no prompt, and then the texture encoder learns in one process or in neither; the restorer learns
    along for half of Patch-DiT's steps, and the second process dies after them.
    """
    torch.manual_seed(0)
    vae: Any = REDUCED.autoencoder.build()
    vae.save_pretrained(tmp_path / "vae")
    whole, broken = (stages(tmp_path / name, shards, training_pictures) for name in ("whole", "broken"))
    for part, processes in (("restorer", 2), ("texture", 1), ("patch-dit", 2)):
        if part == "patch-dit":
            memory_of(tmp_path / "whole", shards)
            with pytest.raises(Killed):
                memory_of(tmp_path / "broken", shards, killed=True)
            memory_of(tmp_path / "broken", shards)
        runs = Run(part, whole[part]), Run(part, broken[part], killed_at=4)
        assert train_together(*runs, processes=processes)[-1] == -signal.SIGKILL
        exported = [tmp_path / name / part / "weights/training.json" for name in ("whole", "broken")]
        assert [json.loads(path.read_text())["steps"] for path in exported] in ([4, 2], [4, 3])  # with each checkpoint
        assert set(train_together(Run(part, broken[part]), processes=processes)) == {0}
        starts = [line["step"] for line in entries(tmp_path / "broken" / part, "start")]
        assert starts in ([0, 2], [0, 3])
        assert_same(part, tmp_path / "whole" / part, tmp_path / "broken" / part)
        figures = entries(tmp_path / "broken" / part, "validate")[-1]
        assert all(math.isfinite(value) for value in figures.values() if isinstance(value, float))
    models = []
    for name in ("whole", "broken"):
        root = tmp_path / name
        trained = root / "patch-dit/weights"
        with pytest.raises(ConfigError, match=r"takes latents: name the autoencoder .* with --autoencoder"):
            calibrate(trained / "restorer", str(training_pictures))
        eta, shares = calibrate(
            trained / "restorer",
            str(training_pictures),
            ["real_esrgan"],
            0.4,
            autoencoder=str(tmp_path / "vae"),
            patch=8,
        )
        assert eta > 0
        assert shares[2] <= 0.4
        places = {"autoencoder": tmp_path / "vae", "restorer": trained / "restorer", "patch_dit": trained / "patch_dit"}
        places |= {"texture_encoder": trained / "texture_encoder", "texture_classifier": root / "texture/weights"}
        assemble({**places, "texture_memory": root / "memory"}, root / "model")
        models.append(root / "model")
    for path in models[0].rglob("*.safetensors"):
        assert path.read_bytes() == (models[1] / path.relative_to(models[0])).read_bytes()
    configs = [json.loads((model / "restorer/config.json").read_text()) for model in models]
    assert configs[0]["eta"] == configs[1]["eta"]
    pipeline = PatchScalerPipeline.from_pretrained(models[1], dtype=torch.float32)
    small = Image.new("RGB", (20, 12), "teal")
    assert pipeline(small, steps=(1, 1, 1)).images[0].size == (80, 48)


def test_a_restorer_learns_along_for_its_steps_and_no_longer(
    shards: Path, training_pictures: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    vae: Any = REDUCED.autoencoder.build()
    vae.save_pretrained(tmp_path / "vae")
    table = stages(tmp_path / "runs", shards, training_pictures)["patch-dit"]
    classifier: Any = REDUCED.texture_classifier.build()
    classifier.save_pretrained(table["classifier"])
    memory: Any = REDUCED.texture_memory.build()
    memory.fill(torch.randn(5, 4, 8, 8), torch.randn(5, 8))
    memory.save_pretrained(table["memory"])
    table |= {"restorer": None, "restorer_model": {"network": "SwinRestorer", **own("restorer")}}
    del table["restorer"]
    settings_type, task_type = types_of(Part.patch_dit)
    task = task_type(build(settings_type, table))
    batch = {
        name: torch.stack([pair[name] for pair in (task.dataset()[0], task.dataset()[1])]) for name in ("hr", "lr")
    }
    for step, learns in ((0, True), (1, True), (2, False)):
        task.step = step
        task.network.zero_grad(set_to_none=True)
        loss, figures = task.loss(task.network, batch, torch.Generator().manual_seed(0))
        loss.backward()
        assert ("eq1" in figures) is learns
        gradients = [parameter.grad is not None for parameter in task.network.restorer.parameters()]
        assert gradients == [learns] * len(gradients)
    for change, reason in (
        ({"restorer_steps": 0}, "name the trained restorer's folder, or set restorer_steps"),
        ({"cache": {"count": 5}}, r"needs new crops at every step: set cache\.count = 0"),
    ):
        with pytest.raises(ConfigError, match=reason):
            task_type(build(settings_type, {**table, **change}))


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
