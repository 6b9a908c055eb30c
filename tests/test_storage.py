"""Model folders: whatever doesn't belong is refused by name, and a model put together holds its parts."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from patchscaler import PatchScalerPipeline
from patchscaler.errors import WeightsError
from patchscaler.integrations.diffusers.assembly import FORMAT_VERSION, assemble
from patchscaler.models.loading import check_part
from patchscaler.models.patch_dit import PatchDiT
from patchscaler.models.restorer import ConvRestorer
from patchscaler.models.texture import ReferenceTextureMemory
from patchscaler.storage import BUNDLED, WEIGHTS_FILE, model_folder, read_shapes

NAMES = (
    *("autoencoder", "restorer", "patch_dit", "texture_classifier", "texture_encoder", "texture_memory"),
    *("second_restorer", "fusion"),
)


def change_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS_FILE)
        change(tensors)
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / WEIGHTS_FILE)

    return apply


def change_config(**changes: object) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return apply


def truncate(folder: Path) -> None:
    path = folder / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(folder: Path) -> None:
    (folder / WEIGHTS_FILE).write_bytes(b"")


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


DAMAGES = {
    "unknown tensor": (change_tensors(lambda t: t.update(extra=torch.zeros(2))), WEIGHTS_FILE, "unknown tensor extra"),
    "missing tensor": (change_tensors(lambda t: t.pop("exit.weight")), WEIGHTS_FILE, r"missing tensor exit\.weight"),
    "wrong shape": (
        change_tensors(lambda t: t.update({"exit.bias": torch.zeros(2)})),
        WEIGHTS_FILE,
        r"tensor exit\.bias has shape \(2,\), but config\.json asks for",
    ),
    "another config": (change_config(width=12), WEIGHTS_FILE, "but config.json asks for"),
    "unknown key": (change_config(colour="red"), "config.json", "unknown key colour; known: "),
    "truncated": (truncate, WEIGHTS_FILE, "not a whole safetensors file"),
    "empty": (empty, WEIGHTS_FILE, "not a whole safetensors file"),
    "no weights": (remove(WEIGHTS_FILE), WEIGHTS_FILE, "no such weights"),
    "no config": (remove("config.json"), "config.json", "no such file"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), "config.json", "can't be read as JSON"),
}


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("name", "cls"), [("restorer", ConvRestorer), ("patch_dit", PatchDiT)])
def test_a_part_that_does_not_fit_is_named(name: str, cls: type, damage: str, model: Path) -> None:
    spoil, file, reason = DAMAGES[damage]
    check_part(cls, model / name)
    spoil(model / name)
    with pytest.raises(WeightsError, match=reason) as raised:
        check_part(cls, model / name)
    assert str(raised.value).startswith(f"{model / name / file}: ")
    assert "\n" not in str(raised.value)
    with pytest.raises(WeightsError, match=reason) as raised:
        PatchScalerPipeline.from_pretrained(model)
    assert str(raised.value).startswith(f"{model / name / file}: ")


@pytest.mark.parametrize("name", NAMES)
def test_a_model_without_a_part_is_named(name: str, model: Path) -> None:
    shutil.rmtree(model / name)
    with pytest.raises(WeightsError, match=name):
        PatchScalerPipeline.from_pretrained(model)


def test_a_part_of_another_class_is_named(model: Path) -> None:
    change_config(_class_name="TextureEncoder")(model / "restorer")
    with pytest.raises(WeightsError, match=r"restorer: class TextureEncoder is none of"):
        PatchScalerPipeline.from_pretrained(model)


def test_folders_and_bundled_names(tmp_path: Path) -> None:
    assert model_folder(tmp_path) == str(tmp_path)
    assert model_folder("owner/name") == "owner/name"
    assert Path(model_folder(None)) in (BUNDLED / "tiny", Path("tiny"))


def test_shapes_are_read_from_the_header(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(())}, tmp_path / "x.safetensors")
    assert read_shapes(tmp_path / "x.safetensors") == {"a": (2, 3), "b": ()}


@pytest.fixture(scope="module")
def run_folders(tiny_pipeline: PatchScalerPipeline, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny parts as training leaves them."""
    root = tmp_path_factory.mktemp("runs")
    folders = {name: root / name for name in NAMES}
    folders["patch_dit"], folders["texture_encoder"] = root / "joint" / "patch_dit", root / "joint" / "texture_encoder"
    for name, folder in folders.items():
        getattr(tiny_pipeline, name).save_pretrained(folder)
    (folders["restorer"] / "training.json").write_text('{"steps": 7}')
    (root / "joint" / "training.json").write_text('{"steps": 9}')
    return folders


def test_an_assembled_model_holds_its_parts_in_half_precision(
    run_folders: dict[str, Path], tiny_pipeline: PatchScalerPipeline, tmp_path: Path
) -> None:
    assemble(run_folders, tmp_path / "out", figures={"lpips": 0.25})
    loaded = PatchScalerPipeline.from_pretrained(tmp_path / "out", dtype=torch.float32)
    for name in NAMES:
        originals = load_file(run_folders[name] / WEIGHTS_FILE)
        stored = load_file(tmp_path / "out" / name / WEIGHTS_FILE)
        used = getattr(loaded, name).state_dict()
        assert originals.keys() == stored.keys()
        for key, original in originals.items():
            half = original.half() if original.is_floating_point() else original
            assert torch.equal(stored[key], half)
            assert stored[key].dtype == half.dtype
            assert torch.equal(used[key], half.to(used[key].dtype))
        config = dict(getattr(tiny_pipeline, name).config)
        assert {key: getattr(loaded, name).config[key] for key in config if key[0] != "_"} == {
            key: value for key, value in config.items() if key[0] != "_"
        }
    assert loaded.texture_memory.texture_values.dtype == torch.int8
    assert sum(file.stat().st_size for file in (tmp_path / "out").rglob("*.bin")) == 0  # no pickle

    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["format_version"] == FORMAT_VERSION
    assert record["licence"] == "Apache-2.0"
    assert record["figures"] == {"lpips": 0.25}
    assert record["made_with"].startswith("patchscaler ")
    assert len(record["date"]) == len("2000-01-01")
    assert record["training"] == dict.fromkeys(NAMES) | {
        "restorer": {"steps": 7},
        "patch_dit": {"steps": 9},
        "texture_encoder": {"steps": 9},
    }


def test_the_assembled_model_runs_as_the_parts_do(
    run_folders: dict[str, Path], tiny_pipeline: PatchScalerPipeline, tmp_path: Path
) -> None:
    assemble(run_folders, tmp_path / "out")
    loaded = PatchScalerPipeline.from_pretrained(tmp_path / "out", dtype=torch.float32)
    image = torch.rand(3, 12, 16, generator=torch.Generator().manual_seed(0))
    one, two = (pipeline(image, output_type="pt").images for pipeline in (tiny_pipeline, loaded))
    assert one.shape == two.shape
    torch.testing.assert_close(one, two, atol=0.02, rtol=0)


def test_parts_that_cannot_be_assembled_are_named(run_folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no folder given for the part texture_memory"):
        assemble({key: value for key, value in run_folders.items() if key != "texture_memory"}, tmp_path / "out")
    with pytest.raises(WeightsError, match="class ConvRestorer can't serve as patch_dit"):
        assemble(run_folders | {"patch_dit": run_folders["restorer"]}, tmp_path / "out")
    with pytest.raises(WeightsError, match=r"nowhere/config\.json: no such file"):
        assemble(run_folders | {"restorer": tmp_path / "nowhere"}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_integers_in_the_memory_survive_a_reload(tiny_pipeline: PatchScalerPipeline, tmp_path: Path) -> None:
    tiny_pipeline.texture_memory.save_pretrained(tmp_path)
    loaded = ReferenceTextureMemory.from_pretrained(tmp_path)
    for key, value in tiny_pipeline.texture_memory.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
        assert loaded.state_dict()[key].dtype == value.dtype
