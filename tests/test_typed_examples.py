"""What README shows in Python passes `mypy --strict` and pyright, as in a program that uses the installed package."""

import dataclasses
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from mypy import api

import patchscaler
from pages import ROOT, blocks
from patchscaler import Options, Upscaler, upscaler
from patchscaler.integrations.diffusers.pipeline import CallOptions, OutputType, PatchScalerPipeline
from patchscaler.options import QUALITIES, OptionNames, Quality

WRONG = """
from patchscaler import PatchScalerBatch, PatchScalerOutput, PatchScalerPipeline, Result, Upscaler

pipe = PatchScalerPipeline.from_pretrained()
one: PatchScalerOutput = pipe("photo.jpg")
two: PatchScalerBatch = pipe(["photo.jpg", "scan.tif"], quality="best")
alone: tuple[object] = pipe("photo.jpg", return_dict=False)
upscaler = Upscaler()
three: Result = upscaler(open("photo.jpg", "rb"), scale=2, resume=True)
four: list[Result] = upscaler([b"", "scan.tif"], quality="best")
pipe("photo.jpg", quality="beste")
pipe("photo.jpg", output_type="jpeg")
pipe("photo.jpg", step=(1, 2, 3))
upscaler("photo.jpg", qualty="best")
upscaler("photo.jpg")[0]
upscaler(["photo.jpg"]).image
"""
WRONG_LINES = range(11, 17)


# `mypy --strict`, flag by flag: it can't be said of single modules.
STRICT = """
[[tool.mypy.overrides]]
module = ["readme", "wrong"]
enable_error_code = ["no-untyped-call", "misc"]
check_untyped_defs = true
disallow_any_generics = true
disallow_incomplete_defs = true
disallow_subclassing_any = true
disallow_untyped_calls = true
disallow_untyped_decorators = true
disallow_untyped_defs = true
extra_checks = true
strict_equality = true
warn_return_any = true
warn_unused_ignores = true
"""


@pytest.mark.slow
def test_readme_examples_are_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the project's own settings for all other modules, so that `mypy` and this test share what they find out."""
    monkeypatch.setenv("MYPYPATH", str(Path(patchscaler.__file__).parents[1]))
    readme, wrong = tmp_path / "readme.py", tmp_path / "wrong.py"
    readme.write_text("\n".join(blocks(ROOT / "README.md", "python")))
    wrong.write_text(WRONG)
    config = tmp_path / "pyproject.toml"
    config.write_text((ROOT / "pyproject.toml").read_text() + STRICT)
    options = ["--config-file", str(config), "--cache-dir", str(ROOT / ".mypy_cache")]
    said, failure, _ = api.run([*options, str(readme), str(wrong)])
    assert not failure
    lines = [line for line in said.splitlines() if ": error:" in line]
    assert not [line for line in lines if "readme.py" in line], said
    assert {int(line.split(":")[1]) for line in lines} == set(WRONG_LINES), said  # what is wrong is seen


@pytest.mark.slow
def test_pyright_agrees(tmp_path: Path) -> None:
    (tmp_path / "readme.py").write_text("\n".join(blocks(ROOT / "README.md", "python")))
    (tmp_path / "wrong.py").write_text(WRONG)
    settings = {"extraPaths": [str(Path(patchscaler.__file__).parents[1])], "pythonVersion": "3.10"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    environment = os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}  # of newer versions
    line = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    said = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False).stdout
    found = json.loads(said)["generalDiagnostics"]
    places = {(Path(each["file"]).name, each["range"]["start"]["line"] + 1) for each in found}
    assert places == {("wrong.py", line) for line in WRONG_LINES}, said


def test_the_types_say_what_the_code_takes() -> None:
    assert get_args(Quality) == tuple(QUALITIES)
    assert get_args(OutputType) == ("pil", "np", "pt", "latent")
    fields = {field.name for field in dataclasses.fields(Options)}
    assert get_type_hints(OptionNames).keys() == fields
    names = set(inspect.signature(PatchScalerPipeline.__call__).parameters) - {
        "self",
        "image",
        "return_dict",
        "options",
    }
    assert names | fields == get_type_hints(CallOptions).keys()
    names = set(inspect.signature(Upscaler.__call__).parameters) - {"self", "image", "named"}
    assert names | fields == get_type_hints(upscaler.CallOptions).keys()
