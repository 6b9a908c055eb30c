"""The confidence learned from LPIPS: what it leaves alone, what it says, and what Patch-DiT is told."""

from pathlib import Path
from typing import Any

import pytest
import torch

from patchscaler.cli.train import Part, types_of
from patchscaler.errors import ConfigError
from patchscaler.models.fusion import Fusion
from patchscaler.models.patch_dit import PatchDiT
from patchscaler.models.restorer import ConvRestorer, soft_log_error
from patchscaler.training.confidence import read_line
from patchscaler.training.readouts import Readout
from patchscaler.training.settings import build
from training_runs import entries, needs_vgg, run_training

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@needs_vgg
def test_coarse_pictures_stay_and_the_log_error_follows_lpips(table: Any, tmp_path: Path, parts: Path) -> None:
    settings = table("confidence", steps=120, batch_size=3, ema_decay=0.5) | {
        "crops": 8,
        "held_out": 8,
        "prompt_limit": -0.25,
    }
    run_training("confidence", settings)
    before = ConvRestorer.from_pretrained(parts / "restorer")
    after = ConvRestorer.from_pretrained(tmp_path / "run/weights/restorer")
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(before(pixels).latents, after(pixels).latents)
        assert not torch.equal(before(pixels).log_error, after(pixels).log_error)
    first = entries(tmp_path / "run", "train")[0]["first"]
    last = entries(tmp_path / "run", "train")[-1]
    assert last["first"] < first - 0.05
    assert (
        PatchDiT.from_pretrained(tmp_path / "run/weights/patch_dit").config["prompt_limit"] == settings["prompt_limit"]
    )


@needs_vgg
def test_the_new_map_has_the_mean_and_spread_of_the_old_one(table: Any, tmp_path: Path) -> None:
    settings_type, task_type = types_of(Part.confidence)
    settings = build(settings_type, table("confidence") | {"held_out": 6})
    task = task_type(settings)
    torch.nn.init.normal_(task.network.first.convolution.weight, std=0.01)
    torch.nn.init.normal_(task._crops.restorer.exit.weight, std=0.1)  # it is zero, and so is what the old map says
    task.export(tmp_path / "out")
    restorer = ConvRestorer.from_pretrained(tmp_path / "out/restorer")
    held_out = task._measured()
    assert held_out["log_error"].std() > 0.1
    with torch.no_grad():
        now = soft_log_error(restorer.exit(held_out["features"])[:, -1:])
    assert float(now.mean()) == pytest.approx(float(held_out["log_error"].mean()), abs=0.05)
    assert float(now.std()) == pytest.approx(float(held_out["log_error"].std()), rel=0.1)


def test_folding_is_exact() -> None:
    torch.manual_seed(0)
    features = 3 + 2 * torch.randn(4, 8, 10, 10)
    readout = Readout(features, framed=True, start=-1.0)
    torch.nn.init.normal_(readout.convolution.weight, std=0.1)
    weight, bias = readout.folded(3.0, 1.5)
    with torch.no_grad():
        folded = torch.nn.functional.conv2d(features, weight, bias)
        torch.testing.assert_close(folded, 3 * readout(features) + 1.5, rtol=1e-4, atol=1e-4)


@needs_vgg
def test_with_a_second_restorer_the_fusion_says_what_was_learned(table: Any, tmp_path: Path, parts: Path) -> None:
    settings_type, task_type = types_of(Part.confidence)
    second = {name: str(parts / name) for name in ("second_restorer", "fusion")}
    task = task_type(build(settings_type, table("confidence") | second | {"held_out": 4}))
    for parameter in task.network.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    read, held_out = task._read(), task._measured()
    figures, _ = task.validate()
    assert figures["gain"] == pytest.approx(float((held_out["lpips"] - held_out["fused_lpips"]).mean()), abs=0.02)
    before = Fusion.from_pretrained(parts / "fusion")
    task.export(tmp_path / "out")
    after = Fusion.from_pretrained(tmp_path / "out/fusion")
    with torch.no_grad():
        torch.testing.assert_close(after(held_out["features"]), read["gain"], rtol=1e-3, atol=1e-3)
        rows = [net.exit(held_out["fused_features"]) for net in (before, after)]
    torch.testing.assert_close(rows[1][:, :-1], rows[0][:, :-1])  # the latents stay
    apart = (read["fused"] - read["first"]) / (rows[1][:, -1:])
    torch.testing.assert_close(apart, apart.median().expand_as(apart), rtol=0.05, atol=0.01)  # stretched evenly
    with pytest.raises(ConfigError, match="second_restorer and fusion go together"):
        task_type(build(settings_type, table("confidence") | {"fusion": second["fusion"]}))


def test_patch_dit_takes_the_new_log_error_as_the_old_one() -> None:
    torch.manual_seed(0)
    dit = PatchDiT(latent_channels=3, sample_size=8, width=16, depth=1, heads=2, texture_width=16)
    x_t, coarse, log_error = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8), torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        wanted = dit.embed(x_t, coarse, 0.4 * log_error - 0.7)
        read_line(dit, 0.4, -0.7)
        torch.testing.assert_close(dit.embed(x_t, coarse, log_error), wanted, rtol=1e-5, atol=1e-5)
