"""The command where torch isn't installed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WITHOUT = """
import sys
for name in ("torch", "diffusers", "einops", "jinja2"):
    sys.modules[name] = None
from patchscaler.cli.main import run
run()
"""


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-c", WITHOUT, *arguments]
    return subprocess.run(call, capture_output=True, text=True, cwd=folder, check=False)


def test_a_folder_with_16_bits_and_alpha(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "in" / "sub").mkdir(parents=True)
    Image.fromarray(rng.integers(0, 256, (6, 9, 3), np.uint8)).save(tmp_path / "in" / "photo.jpg")
    Image.fromarray(rng.integers(0, 65536, (5, 7), np.uint16)).save(tmp_path / "in" / "deep.png")
    Image.fromarray(rng.integers(0, 256, (4, 8, 4), np.uint8)).save(tmp_path / "in" / "sub" / "alpha.png")
    answer = command(tmp_path, "upscale", "-r", "in", "-o", "out", "--denoise", "0")
    assert (answer.returncode, answer.stderr) == (0, "")
    found = {}
    for path in (tmp_path / "out").rglob("*.png"):
        with Image.open(path) as image:
            found[path.name] = (image.size, image.mode)
    assert found == {
        "photo_x4.png": ((36, 24), "RGB"),
        "deep_x4.png": ((28, 20), "I;16"),
        "alpha_x4.png": ((32, 16), "RGBA"),
    }


def test_info_says_what_there_is(tmp_path: Path) -> None:
    lines = command(tmp_path, "info").stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["patchscaler", "onnx", "torch"]
    assert lines[1].endswith("taken by --engine auto")
    assert "not installed" in lines[2]


@pytest.mark.parametrize(
    "arguments", [("upscale", "p.png", "--engine", "torch"), ("upscale", "p.png", "--device", "cuda"), ("evaluate",)]
)
def test_what_needs_torch_says_so(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "p.png")
    more = ("--out", ".") if arguments == ("evaluate",) else ()
    answer = command(tmp_path, *arguments, *more)
    assert (answer.returncode, answer.stderr.count("\n")) == (2, 1)
    assert 'pip install "patchscaler[' in answer.stderr
