"""Every part trains through the one loop, and a run that was stopped or killed is the run that never was."""

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file

from patchscaler.cli.train import Part, types_of
from patchscaler.errors import ConfigError
from patchscaler.models.loading import check_part
from patchscaler.storage import WEIGHTS_FILE
from patchscaler.training import loop
from patchscaler.training.settings import build
from training_runs import PARTS, WEIGHTS, assert_same, entries, needs_vgg, run_training, state_of

RESUMABLE = ["restorer", "patch-dit", pytest.param("finetune", marks=needs_vgg)]


pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture(scope="module")
def whole_runs() -> dict[tuple[str, int], Path]:
    """Folders of finished runs by part and steps."""
    return {}


@pytest.fixture
def never_stopped(table: Any, tmp_path: Path, whole_runs: dict[tuple[str, int], Path]) -> Callable[[str, int], Path]:
    """never_stopped(part, steps): the folder of a run that others are compared with; each is made once."""

    def run(part: str, steps: int) -> Path:
        if (part, steps) not in whole_runs:
            run_training(part, table(part, "whole", steps=steps))
            whole_runs[part, steps] = tmp_path / "whole"
        return whole_runs[part, steps]

    return run


@pytest.mark.parametrize("part", PARTS)
def test_every_part_changes_every_tensor_and_leaves_what_inference_loads(part: str, table: Any, tmp_path: Path) -> None:
    settings_type, task_type = types_of(Part(part))
    resolved = build(settings_type, table(part, steps=4))
    task = task_type(resolved)
    before = {name: value.clone() for name, value in task.network.named_parameters() if value.requires_grad}
    figures = loop.train(task, resolved.run, resolved)
    after = dict(task.network.named_parameters())
    assert not [name for name, value in before.items() if torch.equal(after[name], value)]
    folder = tmp_path / "run"
    assert figures
    assert all(math.isfinite(value) for value in figures.values())
    assert json.loads((folder / "settings.json").read_text())["run"]["steps"] == 4
    assert [line["step"] for line in entries(folder, "train")] == [2, 4]
    assert [line["step"] for line in entries(folder, "validate")] == [4]
    if part not in ("texture", "confidence"):  # they have nothing to look at
        with Image.open(folder / "sheets" / "0000004.png") as picture:
            assert picture.format == "PNG"
    record = json.loads((folder / "weights" / "training.json").read_text())
    assert record["steps"] == 4
    assert record["figures"] == figures
    for sub, cls in WEIGHTS[part].items():
        check_part(cls, folder / "weights" / sub)
        cls.from_pretrained(folder / "weights" / sub)


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
def test_a_stopped_run_goes_on_as_if_it_never_was(
    part: str, workers: int, table: Any, never_stopped: Callable[[str, int], Path], tmp_path: Path
) -> None:
    run_training(part, table(part, "stopped", steps=2, workers=workers))
    run_training(part, table(part, "stopped", steps=5, workers=workers, max_hours=0.0))  # one step, then out of time
    assert int(state_of(part, tmp_path / "stopped")["custom_checkpoint_0.pkl/step"]) == 3
    run_training(part, table(part, "stopped", steps=5, workers=workers))
    assert_same(part, never_stopped(part, 5), tmp_path / "stopped")


@pytest.mark.parametrize("part", RESUMABLE)
def test_a_killed_run_goes_on_as_if_it_never_was(
    part: str,
    table: Any,
    never_stopped: Callable[[str, int], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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
    assert_same(part, never_stopped(part, 5), tmp_path / "killed")


@pytest.mark.parametrize("moment", ["while writing", "first rename", "second rename", "clean-up"])
def test_a_checkpoint_is_whole_whenever_the_kill_comes(
    moment: str,
    table: Any,
    never_stopped: Callable[[str, int], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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
    assert_same("restorer", never_stopped("restorer", 4), tmp_path / "killed")
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


def test_accumulated_batches_are_one_step(table: Any, tmp_path: Path) -> None:
    """Two batches of 2 make the step of one of 4, and a run stopped after an odd number of steps goes on."""
    run_training("restorer", table("restorer", "at once", steps=3, batch_size=4))
    run_training("restorer", table("restorer", "in two", steps=1, accumulation=2))
    run_training("restorer", table("restorer", "in two", steps=3, accumulation=2))
    one, two = state_of("restorer", tmp_path / "at once"), state_of("restorer", tmp_path / "in two")
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=2e-5, msg=key)
    run_training("patch-dit", table("patch-dit", "whole", steps=4, accumulation=3))
    run_training("patch-dit", table("patch-dit", "stopped", steps=1, accumulation=3))
    run_training("patch-dit", table("patch-dit", "stopped", steps=4, accumulation=3))
    assert_same("patch-dit", tmp_path / "whole", tmp_path / "stopped")


def test_activations_computed_again_are_the_same(table: Any, tmp_path: Path) -> None:
    for folder, again in (("kept", False), ("again", True)):
        run_training("patch-dit", table("patch-dit", folder, gradient_checkpointing=again))
    assert_same("patch-dit", tmp_path / "kept", tmp_path / "again")
    with pytest.raises(ConfigError, match=r"run\.gradient_checkpointing: this part has no network that can"):
        run_training("restorer", table("restorer", gradient_checkpointing=True))


def test_checkpoints_and_the_best_weights_are_kept(table: Any, tmp_path: Path) -> None:
    chosen = {"keep_every": 2, "best": "min l1", "validate_every": 1, "learning_rate": 0.5}  # it gets worse
    run_training("restorer", table("restorer", steps=5, **chosen))
    kept = tmp_path / "run" / "kept"
    assert sorted(path.name for path in kept.iterdir()) == ["0000002", "0000004"]
    errors = {line["step"]: line["l1"] for line in entries(tmp_path / "run", "validate")}
    best = json.loads((tmp_path / "run" / "best" / "training.json").read_text())
    assert best["steps"] == min(errors, key=lambda step: errors[step])
    check_part(WEIGHTS["restorer"]["."], tmp_path / "run" / "best")
    shutil.copytree(kept / "0000002" / "checkpoint", tmp_path / "again" / "checkpoint")  # a new run from there
    run_training("restorer", table("restorer", "again", steps=5, **chosen))
    assert_same("restorer", tmp_path / "run", tmp_path / "again")
    with pytest.raises(ConfigError, match=r"run\.best names psnr; this part's figures are l1, l1_bicubic, psnr_y"):
        run_training("restorer", table("restorer", "wrong", best="max psnr"))


def test_figures_go_to_a_tracker(table: Any, tmp_path: Path) -> None:
    run_training("restorer", table("restorer", tracker="tensorboard", log_every=1))
    found = b"".join(path.read_bytes() for path in (tmp_path / "run/tracker/patchscaler").glob("events.*"))
    for name in (b"train/loss", b"train/gradient_norm", b"validate/psnr_y"):
        assert name in found
    with pytest.raises(ConfigError, match=r'run\.tracker "abacus" is not there; installed: .*tensorboard'):
        run_training("restorer", table("restorer", "other", tracker="abacus"))


def test_a_texture_classifier_needs_no_restorer(table: Any) -> None:
    """Its coarse view is the bicubic enlargement then."""
    settings = table("texture")
    del settings["restorer"]
    figures = run_training("texture", settings | {"held_out": 4})
    assert all(math.isfinite(value) for value in figures.values())
