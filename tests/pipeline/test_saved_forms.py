"""Whatever form a pipeline is saved in loads again, by any class, or is refused with words; what goes to the hub."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import snapshot_download
from PIL import Image

from patchscaler import PatchScalerPipeline
from patchscaler.errors import ConfigError, WeightsError
from patchscaler.models.model import load_model
from patchscaler.storage import BUNDLED, WEIGHTS_FILE, weight_files
from tiny_pipeline import build_tiny_pipeline

PARTS = ("autoencoder", "restorer", "patch_dit", "texture_classifier", "texture_encoder", "texture_memory")


def states(pipe: Any) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value for name in PARTS for key, value in getattr(pipe, name).state_dict().items()
    }  # fmt: skip


def assert_same(found: Any, expected: Any) -> None:
    first, second = states(found), states(expected)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("options", [{"variant": "fp16"}, {"max_shard_size": "20KB"}], ids=["variant", "shards"])
def test_variants_and_shards_load_again(options: dict[str, Any], tiny_pipeline: Any, tmp_path: Path) -> None:
    tiny_pipeline.save_pretrained(tmp_path, **options)
    assert not (tmp_path / "patch_dit" / WEIGHTS_FILE).exists()
    variant = options.get("variant")
    assert_same(PatchScalerPipeline.from_pretrained(tmp_path, variant=variant), tiny_pipeline)
    if not variant:
        assert len(weight_files(tmp_path / "patch_dit")) > 1
        assert_same(load_model(tmp_path, torch.float32), tiny_pipeline)  # the command line's way


def test_shards_with_a_variant_load_again(tiny_pipeline: Any, tmp_path: Path) -> None:
    tiny_pipeline.save_pretrained(tmp_path, variant="fp16", max_shard_size="20KB")
    assert_same(PatchScalerPipeline.from_pretrained(tmp_path, variant="fp16"), tiny_pipeline)


def test_forms_are_checked_strictly(tiny_pipeline: Any, tmp_path: Path) -> None:
    tiny_pipeline.save_pretrained(tmp_path, max_shard_size="20KB")
    shard = weight_files(tmp_path / "patch_dit")[0]
    shard.unlink()
    with pytest.raises(WeightsError, match=shard.name):
        PatchScalerPipeline.from_pretrained(tmp_path)
    index = next((tmp_path / "patch_dit").glob("*.index.json"))
    index.write_text(json.dumps({"weight_map": {"exit.weight": "../elsewhere.safetensors"}}))
    with pytest.raises(WeightsError, match="names no weights of its folder"):
        PatchScalerPipeline.from_pretrained(tmp_path)


def test_an_absent_variant_is_named(tiny_model: Path) -> None:
    with pytest.raises(WeightsError, match="variant=fp16"):
        PatchScalerPipeline.from_pretrained(tiny_model, variant="fp16")


def test_pickled_weights_are_neither_written_nor_read(tiny_pipeline: Any, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="safetensors only"):
        tiny_pipeline.save_pretrained(tmp_path / "new", safe_serialization=False)
    shutil.copytree(tiny_model, tmp_path / "old")
    tiny_pipeline.restorer.save_pretrained(tmp_path / "old" / "restorer", safe_serialization=False)
    (tmp_path / "old" / "restorer" / WEIGHTS_FILE).unlink(missing_ok=True)
    with pytest.raises(WeightsError, match=r"pickled weights \(.bin\) aren't read"):
        PatchScalerPipeline.from_pretrained(tmp_path / "old")


def test_one_precision_whatever_class_loads(tmp_path: Path) -> None:
    half = build_tiny_pipeline().to(dtype=torch.float16)
    half.save_pretrained(tmp_path)
    ours = PatchScalerPipeline.from_pretrained(tmp_path)
    theirs = DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True)
    assert {part.dtype for part in (ours.patch_dit, theirs.patch_dit)} == {torch.float32}
    assert_same(ours, theirs)


def test_a_precision_for_each_part(tiny_model: Path, photo: Image.Image) -> None:
    wanted = {"patch_dit": torch.bfloat16, "texture_memory": torch.bfloat16, "default": torch.float32}
    pipe = PatchScalerPipeline.from_pretrained(tiny_model, dtype=wanted)
    assert [pipe.restorer.dtype, pipe.texture_encoder.dtype, pipe.patch_dit.dtype] == [
        torch.float32,
        torch.float32,
        torch.bfloat16,
    ]
    expected = PatchScalerPipeline.from_pretrained(tiny_model)(photo, steps=(1, 2, 3), output_type="pt").images
    assert (pipe(photo, steps=(1, 2, 3), output_type="pt").images - expected).abs().mean() < 1e-2


def test_the_fastest_precision(tiny_model: Path) -> None:
    from patchscaler.engines.torch import default_dtype

    assert PatchScalerPipeline.from_pretrained(tiny_model, dtype="auto").dtype == default_dtype("cpu")


# By diffusers alone, and from the hub


def test_diffusers_alone_asks_for_trust(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        DiffusionPipeline.from_pretrained(tiny_model)
    theirs = DiffusionPipeline.from_pretrained(tiny_model, trust_remote_code=True)
    assert type(theirs).__name__ == "PatchScalerPipeline"


@pytest.fixture
def cached_repository(tiny_model: Path, tmp_path: Path) -> Path:
    """The hub's cache, with somebody/upscaler as a download of the whole repository leaves it."""
    repository = tmp_path / "models--somebody--upscaler"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(tiny_model, repository / "snapshots" / ("0" * 40))
    assert snapshot_download("somebody/upscaler", cache_dir=tmp_path, local_files_only=True)
    return tmp_path


def test_a_repository_is_checked_strictly(cached_repository: Path, tiny_pipeline: Any) -> None:
    options = {"cache_dir": cached_repository, "local_files_only": True}
    pipe = PatchScalerPipeline.from_pretrained("somebody/upscaler", **options)
    assert_same(pipe, tiny_pipeline)
    assert pipe.name_or_path == "somebody/upscaler"
    path = next(cached_repository.glob("*/snapshots/*/restorer/config.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"colour": "red"}))
    with pytest.raises(WeightsError, match="unknown key colour"):
        PatchScalerPipeline.from_pretrained("somebody/upscaler", **options)


def test_an_unknown_repository_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nobody/nothing"):
        PatchScalerPipeline.from_pretrained("nobody/nothing", cache_dir=tmp_path, local_files_only=True)


def test_the_code_in_a_repository_is_not_run_by_our_class(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / "patchscaler_pipeline.py").write_text("raise RuntimeError('run')\n")
    assert PatchScalerPipeline.from_pretrained(tmp_path / "model")


class Hub:
    """Stands where the hub would: this machine reaches none. What is pushed lands in a folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.readme = folder, False
        monkeypatch.setattr("patchscaler.integrations.diffusers.saving.create_repo", self.create)
        monkeypatch.setattr(
            "patchscaler.integrations.diffusers.saving.file_exists", lambda *names, **options: self.readme
        )
        monkeypatch.setattr("patchscaler.integrations.diffusers.saving.upload_folder", self.upload)

    def create(self, name: str, **options: Any) -> Any:
        return type("Repository", (), {"repo_id": name if "/" in name else f"me/{name}"})

    def upload(self, *, repo_id: str, folder_path: Path, **options: Any) -> Any:
        shutil.copytree(folder_path, self.folder / repo_id)
        return type("Commit", (), {"commit_url": f"hub/{repo_id}"})


def test_a_push_holds_all_that_a_stranger_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(tmp_path / "hub", monkeypatch)
    PatchScalerPipeline.from_pretrained().save_pretrained(tmp_path / "mine", push_to_hub=True)
    pushed = tmp_path / "hub" / "me" / "mine"
    assert (pushed / "patchscaler_pipeline.py").exists()
    assert (pushed / "record.json").read_bytes() == (BUNDLED / "tiny" / "record.json").read_bytes()
    assert (pushed / "LICENSE.real-esrgan").exists()
    card = (pushed / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\nlibrary_name: diffusers\n")
    figures = json.loads((pushed / "record.json").read_text())["figures"]["bicubic"]["PatchScaler"]
    row = f"| bicubic | PatchScaler | {figures['psnr']:.3f} |"
    for words in ("- super-resolution", "BSD-3-Clause", row, "## Limits", "me/mine"):
        assert words in card
    hub.readme = True  # somebody's own card is left alone
    assert build_tiny_pipeline().push_to_hub("you/theirs") == "hub/you/theirs"
    assert (tmp_path / "hub/you/theirs/patchscaler_pipeline.py").exists()
    assert not (tmp_path / "hub/you/theirs/README.md").exists()


def test_a_model_without_a_record_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Hub(tmp_path, monkeypatch)
    build_tiny_pipeline().push_to_hub("you/new")
    card = (tmp_path / "you/new/README.md").read_text()
    assert "license: other" in card
    assert card.count("on record") == 2


def test_a_pipeline_from_a_pipeline_shares_its_parts(tiny_model: Path, tiny_pipeline: Any) -> None:
    half = PatchScalerPipeline.from_pretrained(tiny_model, dtype=torch.bfloat16)
    made = PatchScalerPipeline.from_pipe(half)
    assert all(getattr(made, name) is getattr(half, name) for name in PARTS)
    assert made.dtype == torch.bfloat16  # diffusers would make both float32
    assert made.config["overlap"] == 4
    assert made.name_or_path == half.name_or_path
    other = PatchScalerPipeline.from_pipe(half, restorer=tiny_pipeline.restorer, overlap=2)
    assert other.restorer is tiny_pipeline.restorer
    assert other.config["overlap"] == 2
