"""The ComfyUI nodes keep to ComfyUI's contract: what a node class says of itself, and the tensors it takes and gives.

ComfyUI itself is no package that tests could depend on. Its two modules that the nodes call when they run are stood in
for by `comfy`, below, with the same names and arguments; integrations/comfyui/README.md says what it ran itself.
"""

import dataclasses
import importlib.util
import inspect
import json
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import patchscaler
from patchscaler import Upscaler
from patchscaler.errors import ConfigError
from patchscaler.integrations import comfy as bridge
from patchscaler.models.texture import ReferenceTextureMemory

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "integrations" / "comfyui"
# ComfyUI's own types that the nodes use, and what a value of them is in Python; MODEL is ours.
WIDGETS = {"STRING": str, "INT": int, "FLOAT": float, "BOOLEAN": bool}
SOCKETS = {"IMAGE", "MASK", "PATCHSCALER_MODEL"}


class Stopped(Exception):
    """ComfyUI's InterruptProcessingException."""


@pytest.fixture(scope="module")
def package() -> types.ModuleType:
    """Loaded as ComfyUI loads a folder of custom_nodes: by its __init__.py, under any name."""
    spec = importlib.util.spec_from_file_location(
        "custom_nodes_patchscaler", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def comfy(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """comfy.utils.ProgressBar and comfy.model_management, as far as the nodes call them."""
    state: dict[str, Any] = {"progress": [], "stop": False}

    class ProgressBar:
        def __init__(self, total: int) -> None:
            self.total = total

        def update_absolute(self, value: int) -> None:
            assert 0 <= value <= self.total
            state["progress"].append(value)

    def throw_exception_if_processing_interrupted() -> None:
        if state["stop"]:
            raise Stopped

    management = types.ModuleType("comfy.model_management")
    vars(management).update(
        get_torch_device=lambda: torch.device("cpu"),
        throw_exception_if_processing_interrupted=throw_exception_if_processing_interrupted,
    )
    utils = types.ModuleType("comfy.utils")
    vars(utils).update(ProgressBar=ProgressBar)
    for module in (types.ModuleType("comfy"), management, utils):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return state


def images(count: int = 1) -> Tensor:
    return torch.rand(count, 20, 24, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def nodes(package: types.ModuleType) -> dict[str, Any]:
    return package.NODE_CLASS_MAPPINGS


# What the classes say of themselves


def test_every_node_keeps_the_contract(package: types.ModuleType) -> None:
    assert set(package.NODE_DISPLAY_NAME_MAPPINGS) == set(package.NODE_CLASS_MAPPINGS)
    for node in package.NODE_CLASS_MAPPINGS.values():
        assert isinstance(node.CATEGORY, str)
        assert set(node.RETURN_TYPES) <= SOCKETS
        assert len(getattr(node, "RETURN_NAMES", node.RETURN_TYPES)) == len(node.RETURN_TYPES)
        inputs = node.INPUT_TYPES()
        assert set(inputs) <= {"required", "optional"}
        names = [name for kind in inputs.values() for name in kind]
        assert names == list(inspect.signature(getattr(node, node.FUNCTION)).parameters)[1:]
        for kind, options in (entry for given in inputs.values() for entry in _entries(given)):
            if isinstance(kind, list):  # a choice
                assert options["default"] in kind
            elif kind in WIDGETS:
                assert isinstance(options["default"], WIDGETS[kind])
                if kind in ("INT", "FLOAT"):
                    assert options["min"] <= options["default"] <= options["max"]
            else:
                assert kind in SOCKETS


def _entries(inputs: dict[str, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    for entry in inputs.values():
        yield entry[0], entry[1] if len(entry) > 1 else {}


def test_the_nodes_hold_no_tensor_maths() -> None:
    code = (FOLDER / "nodes.py").read_text()
    assert "torch" not in code.replace("get_torch_device", "")
    assert "numpy" not in code


def test_importing_the_nodes_loads_no_torch() -> None:
    """ComfyUI imports every node package at its start."""
    import subprocess

    code = "import sys, nodes; assert 'torch' not in sys.modules and 'patchscaler' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=FOLDER, check=True)


# What they do


def test_upscaling(nodes: dict[str, Any], comfy: dict[str, Any], tiny_model: Path) -> None:
    (model,) = nodes["PatchScalerModel"]().load(str(tiny_model))
    batch = images(2)
    (made,) = nodes["PatchScalerUpscale"]().upscale(model, batch, 2.0, "fast", 3)
    assert made.shape == (2, 40, 48, 3)
    assert made.dtype == torch.float32
    assert made.device.type == "cpu"
    assert 0 <= made.min() <= made.max() <= 1
    for own, image in zip(made, batch, strict=True):
        expected = model(image.permute(2, 0, 1), scale=2, quality="fast", seed=3).pixels
        np.testing.assert_allclose(own, expected[0].transpose(1, 2, 0), atol=1e-6)
    assert comfy["progress"][-1] == 100
    assert nodes["PatchScalerUpscale"]().upscale(model, images(), 1.0, "fast", 0)[0].shape == (1, 20, 24, 3)


def test_the_stop_button(nodes: dict[str, Any], comfy: dict[str, Any], tiny_upscaler: Upscaler) -> None:
    comfy["stop"] = True
    with pytest.raises(Stopped):
        nodes["PatchScalerUpscale"]().upscale(tiny_upscaler, images(), 4.0, "fast", 0)


def test_the_difficulty_map(nodes: dict[str, Any], tiny_upscaler: Upscaler) -> None:
    drawn, confidence = nodes["PatchScalerDifficultyMap"]().draw(tiny_upscaler, images(2))
    assert drawn.shape == (2, 80, 96, 3)
    assert confidence.shape == (2, 80, 96)
    assert 0 <= drawn.min() <= drawn.max() <= 1
    assert 0 < confidence.min() <= confidence.max() <= 1


def test_a_texture_memory(
    nodes: dict[str, Any], comfy: dict[str, Any], tiny_model: Path, training_pictures: Path, tmp_path: Path
) -> None:
    (model,) = nodes["PatchScalerModel"]().load(str(tiny_model))
    (tmp_path / "photos").mkdir()
    for path in training_pictures.iterdir():
        with Image.open(path) as image:
            image.resize((300, 260)).save(tmp_path / "photos" / path.name)
    node, place = nodes["PatchScalerTextureMemory"](), str(tmp_path / "memory")
    (own,) = node.use(model, place, str(tmp_path / "photos"), size=5, candidates=8)
    assert comfy["progress"][-1] == 100
    mine, theirs = own.engine.networks, model.engine.networks
    assert mine.texture_memory.config["size"] == 5
    assert mine.restorer is theirs.restorer
    assert own.engine.model.name == model.engine.model.name
    assert theirs.texture_memory.config["size"] == 20
    (again,) = node.use(model, place)  # built already
    assert torch.equal(again.engine.networks.texture_memory.texture_values, mine.texture_memory.texture_values)
    for upscaler in (own, model):  # every patch is hard
        upscaler.engine.model = dataclasses.replace(upscaler.engine.model, eta=1e-6)
    (made,) = nodes["PatchScalerUpscale"]().upscale(own, images(), 4.0, "best", 0)
    assert not torch.equal(made, nodes["PatchScalerUpscale"]().upscale(model, images(), 4.0, "best", 0)[0])


def test_small_photos_are_refused_with_the_reason(
    nodes: dict[str, Any], comfy: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (200, 300)).save(tmp_path / "photos" / "small.png")
    (model,) = nodes["PatchScalerModel"]().load(str(tiny_model))
    with pytest.raises(ConfigError, match="at least min_side = 256 pixels; small photos don't serve: textures are cut"):
        nodes["PatchScalerTextureMemory"]().use(model, str(tmp_path / "memory"), str(tmp_path / "photos"))


def test_the_folder_is_what_the_registry_wants() -> None:
    """https://docs.comfy.org/registry/specifications, as far as it can be kept before somebody publishes it."""
    described = tomllib.loads((FOLDER / "pyproject.toml").read_text())
    own, project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"], described["project"]
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,99}", project["name"])
    assert not project["name"].startswith("comfyui")  # the registry's advice
    assert project["version"] == patchscaler.__version__
    assert project["license"] == {"file": "LICENSE"}
    assert (FOLDER / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert project["requires-python"] == own["requires-python"]
    assert described["tool"]["comfy"]["DisplayName"] == "PatchScaler"
    assert (FOLDER / "requirements.txt").read_text().split() == project["dependencies"]


def test_a_memory_that_does_not_fit(nodes: dict[str, Any], tiny_upscaler: Upscaler, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has features 9, the model 16"):
        bridge.with_memory(tiny_upscaler, ReferenceTextureMemory(features=9, size=3))
    with pytest.raises(ConfigError, match="name a folder of photos"):
        nodes["PatchScalerTextureMemory"]().use(tiny_upscaler, str(tmp_path))
    with pytest.raises(ConfigError, match="name the folder"):
        nodes["PatchScalerTextureMemory"]().use(tiny_upscaler, "")


def test_the_example_workflow_runs(nodes: dict[str, Any], comfy: dict[str, Any], tiny_model: Path) -> None:
    """Node by node, with links resolved as ComfyUI's executor does; its own LoadImage and SaveImage in two lines."""
    workflow = json.loads((FOLDER / "workflow_api.json").read_text())
    workflow["2"]["inputs"]["name"] = str(tiny_model)
    results: dict[str, tuple[Any, ...]] = {}
    saved = []
    for number in sorted(workflow):
        kind = workflow[number]["class_type"]
        values = {
            name: results[value[0]][value[1]] if isinstance(value, list) else value
            for name, value in workflow[number]["inputs"].items()
        }
        if kind == "LoadImage":
            results[number] = (images(), torch.zeros(1, 20, 24))
        elif kind == "SaveImage":
            saved.append(np.clip(255 * values["images"][0].cpu().numpy(), 0, 255).astype(np.uint8))
        else:
            node = nodes[kind]
            kinds = {name: entry[0] for given in node.INPUT_TYPES().values() for name, entry in given.items()}
            assert set(values) <= set(kinds)
            for name, value in workflow[number]["inputs"].items():
                if isinstance(value, list):
                    source = workflow[value[0]]["class_type"]
                    given = nodes[source].RETURN_TYPES if source in nodes else ("IMAGE", "MASK")
                    assert given[value[1]] == kinds[name]
            results[number] = getattr(node(), node.FUNCTION)(**values)
    assert [picture.shape for picture in saved] == [(80, 96, 3), (80, 96, 3)]
