"""The command in a process of its own: it starts without diffusers, and gives the same picture."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from patchscaler import PatchScalerPipeline
from patchscaler.engines import processor as processor_module
from patchscaler.engines import torch as torch_engine
from patchscaler.engines.torch import default_dtype
from patchscaler.models.model import load_model
from patchscaler.pgs.schedule import alphas_from, make_scheduler

COMMAND = """
import sys
sys.argv[0] = "patchscaler"
from patchscaler.cli.main import run
try:
    run()
finally:
    print(" ".join(name for name in ("diffusers", "torch._dynamo", "sympy", "scipy") if name in sys.modules))
"""


def test_the_command_needs_no_diffusers(tiny_model: Path, photo: Image.Image, tmp_path: Path) -> None:
    photo.save(tmp_path / "p.png")
    arguments = ["upscale", str(tmp_path / "p.png"), "--model", str(tiny_model), "--device", "cpu", "--steps", "1,2,3"]
    command = [sys.executable, "-c", COMMAND, *arguments]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stderr == ""
    assert answer.stdout.splitlines()[1:] == [""]
    pipeline = PatchScalerPipeline.from_pretrained(tiny_model, dtype=default_dtype("cpu"))
    with Image.open(tmp_path / "p_x4.png") as found:
        pairs = zip(found.tobytes(), pipeline(photo, steps=(1, 2, 3)).images[0].tobytes(), strict=True)
        # Another number of threads sums in another order.
        assert max(abs(a - b) for a, b in pairs) <= 1


def test_parts_are_the_pipelines(tiny_model: Path, tiny_pipeline: PatchScalerPipeline) -> None:
    parts = load_model(tiny_model, torch.float32)
    for name in ("autoencoder", "restorer", "patch_dit", "texture_classifier", "texture_encoder", "texture_memory"):
        wanted, found = getattr(tiny_pipeline, name).state_dict(), getattr(parts, name).state_dict()
        assert wanted.keys() == found.keys()
        assert all(torch.equal(wanted[key], found[key]) for key in wanted)
        assert not getattr(parts, name).training
    assert parts.overlap == tiny_pipeline.config["overlap"]
    np.testing.assert_allclose(parts.alphas, tiny_pipeline.scheduler.alphas_cumprod, rtol=2e-6)


def test_the_schedule_is_the_schedulers() -> None:
    scheduler = make_scheduler()
    np.testing.assert_allclose(alphas_from(scheduler.config), scheduler.alphas_cumprod, rtol=2e-6)
    other = type(scheduler)(beta_schedule="linear", num_train_timesteps=50)
    assert np.array_equal(alphas_from(other.config), other.alphas_cumprod)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_tensor_has_the_asked_precision(tiny_model: Path, dtype: torch.dtype) -> None:
    parts = load_model(tiny_model, dtype)
    for part in (parts.restorer, parts.patch_dit, parts.texture_memory):
        assert all(t.dtype == dtype for t in part.state_dict().values() if t.is_floating_point())


@pytest.mark.parametrize(
    ("amx", "avx512", "processor", "fast"),
    [
        (True, True, "Intel(R) Xeon(R) Processor", True),
        (False, True, "Intel(R) Xeon(R) Processor", False),
        (False, True, "AMD EPYC 9B14", True),
        (False, False, "AMD EPYC 9B14", False),
    ],
)
def test_bfloat16_is_chosen_where_it_is_the_faster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, amx: bool, avx512: bool, processor: str, fast: bool
) -> None:
    flags = "flags : fpu" + " amx_tile" * amx + " avx512_bf16" * avx512
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"model name : {processor}\n{flags}\n")
    monkeypatch.setattr(processor_module, "_CPUINFO", cpuinfo)
    monkeypatch.setattr(torch_engine, "fast_bfloat16", processor_module.fast_bfloat16.__wrapped__)
    assert torch_engine.default_dtype("cpu") is (torch.bfloat16 if fast else torch.float32)
