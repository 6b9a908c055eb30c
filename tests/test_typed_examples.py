"""What README shows in Python passes `mypy --strict`, as in a program of somebody who installed the package."""

import dataclasses
import inspect
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from mypy import api
from test_docs import ROOT, blocks

import patchscaler
from patchscaler import Options, Upscaler
from patchscaler.integrations.diffusers.pipeline import CallOptions, OutputType, PatchScalerPipeline
from patchscaler.options import QUALITIES, OptionNames, Quality

WRONG = """
from patchscaler import PatchScalerBatch, PatchScalerOutput, PatchScalerPipeline, Upscaler

pipe = PatchScalerPipeline.from_pretrained()
one: PatchScalerOutput = pipe("photo.jpg")
two: PatchScalerBatch = pipe(["photo.jpg", "scan.tif"], quality="best")
alone: tuple[object] = pipe("photo.jpg", return_dict=False)
pipe("photo.jpg", quality="beste")
pipe("photo.jpg", output_type="jpeg")
pipe("photo.jpg", step=(1, 2, 3))
Upscaler()("photo.jpg", qualty="best")
"""


@pytest.mark.slow
def test_readme_examples_are_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYPYPATH", str(Path(patchscaler.__file__).parents[1]))
    readme, wrong = tmp_path / "readme.py", tmp_path / "wrong.py"
    readme.write_text("\n".join(blocks(ROOT / "README.md", "python")))
    wrong.write_text(WRONG)
    config = tmp_path / "mypy.ini"
    config.write_text("[mypy]\n")
    options = [
        "--strict",
        "--follow-imports=silent",
        "--config-file",
        str(config),
        "--cache-dir",
        str(ROOT / ".mypy_cache"),
    ]
    said, failure, _ = api.run([*options, str(readme), str(wrong)])
    assert not failure
    lines = [line for line in said.splitlines() if ": error:" in line]
    assert not [line for line in lines if "readme.py" in line], said
    assert {int(line.split(":")[1]) for line in lines} == {8, 9, 10, 11}, said  # what is wrong is seen


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
    assert "named" in inspect.signature(Upscaler.__call__).parameters
