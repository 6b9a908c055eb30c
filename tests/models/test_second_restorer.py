"""The GRM's second restorer: the published network in our latents, where it is asked, and that tiles and kills change
nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from patchscaler import DctAutoencoder, PatchScalerPipeline
from patchscaler.errors import ConfigError, WeightsError
from patchscaler.imaging.geometry import Size
from patchscaler.models.fusion import Fusion
from patchscaler.models.restorer import Restoration
from patchscaler.models.rrdb import SecondOpinion
from patchscaler.options import Options
from patchscaler.pgs.gate import LEAN, fused_share
from patchscaler.stages import restore
from patchscaler.stages.restore import second_tiles
from patchscaler.training.published import read_rrdb, restorer_from_rrdb
from tiny_pipeline import build_tiny_pipeline

law = settings(deadline=None, max_examples=25)


def published_layers(width: int, growth: int, blocks: int) -> list[tuple[Tensor, Tensor]]:
    """Random weights and biases of an RRDB network x4, in the order in which its convolutions run."""
    dense = [(width + i * growth, growth) for i in range(4)] + [(width + 4 * growth, width)]
    shapes = [(3, width), *(3 * blocks * dense), *(4 * [(width, width)]), (width, 3)]
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(out, read, 3, 3, generator=generator) / (9 * read) ** 0.5,
            0.1 * torch.randn(out, generator=generator),
        )
        for read, out in shapes
    ]


def published_picture(pixels: Tensor, layers: list[tuple[Tensor, Tensor]], blocks: int) -> Tensor:
    """The network as its paper draws it, layer by layer."""
    left = iter(layers)

    def convolve(x: Tensor) -> Tensor:
        return F.conv2d(x, *next(left), padding=1)

    def active(x: Tensor) -> Tensor:
        return F.leaky_relu(x, 0.2)

    first = convolve(pixels)
    trunk = first
    for _ in range(blocks):
        dense = trunk
        for _ in range(3):
            known = [dense]
            for _ in range(4):
                known.append(active(convolve(torch.cat(known, dim=1))))
            dense = dense + 0.2 * convolve(torch.cat(known, dim=1))
        trunk = trunk + 0.2 * dense
    x = first + convolve(trunk)
    for _ in range(2):
        x = active(convolve(F.interpolate(x, scale_factor=2)))
    return convolve(active(convolve(x)))


def test_its_latents_are_the_encoded_picture_of_the_published_network() -> None:
    layers = published_layers(width=6, growth=4, blocks=2)
    torch.manual_seed(0)
    autoencoder = DctAutoencoder(latents_mean=[0.3] * 32, latents_std=[0.7] * 32)
    restorer = restorer_from_rrdb(layers, autoencoder).eval()
    pixels = torch.rand(2, 3, 10, 14)
    with torch.no_grad():
        wanted = autoencoder.encode(published_picture(pixels, layers, blocks=2))
        found, features = restorer(pixels)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert features.shape == (2, 6, 10, 14)


def test_a_checkpoint_is_read_in_the_order_of_its_layers(tmp_path: Path) -> None:
    layers = published_layers(width=6, growth=4, blocks=1)
    names = ["conv_first", *(f"body.0.rdb{i}.conv{k}" for i in (1, 2, 3) for k in range(1, 6)), "conv_body"]
    names += ["conv_up1", "conv_up2", "conv_hr", "conv_last"]
    state = {}
    for name, (weight, bias) in zip(names, layers, strict=True):
        state |= {f"{name}.weight": weight, f"{name}.bias": bias}
    torch.save({"params_ema": state}, tmp_path / "net.pth")
    for (weight, bias), (read, offset) in zip(layers, read_rrdb(tmp_path / "net.pth"), strict=True):
        assert torch.equal(weight, read)
        assert torch.equal(bias, offset)
    torch.save({"params": {"body.0.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="RRDB"):
        read_rrdb(tmp_path / "other.pth")


def test_the_fused_latents_lie_between_the_two_before_training() -> None:
    torch.manual_seed(0)
    fusion = Fusion(4, first_width=4, second_width=4, width=8, blocks=1)
    first = Restoration(torch.randn(1, 4, 6, 6), torch.randn(1, 1, 6, 6))
    second = SecondOpinion(torch.randn(1, 4, 6, 6), torch.randn(1, 4, 12, 12))
    features = torch.randn(1, 16, 8, 8)
    fused = fusion(features, first, second)
    torch.testing.assert_close(fused.latents, torch.lerp(first.latents, second.latents, 0.4))
    assert torch.equal(fused.log_error, first.log_error)
    leaning = fusion(features, first, second, lean=20.0)
    torch.testing.assert_close(leaning.latents, second.latents, atol=1e-6, rtol=0)


@law
@given(gain=st.floats(-0.1, 0.1))
def test_the_gate_opens_with_the_gain(gain: float) -> None:
    fusion = Fusion(4, first_width=4, second_width=4, width=8, blocks=1, gate_limit=0.02, gate_share=0.25)
    denoise = fusion.gate.denoise(np.full((1, 1, 9, 9), gain, np.float32))
    share = min(max(gain / 0.02 - 0.5, 0), 1)
    assert denoise == pytest.approx(0.5 + (share - 0.25) / 1.5 if share >= 0.25 else 0)


@law
@given(less=st.floats(0, 1), more=st.floats(0, 1))
def test_the_second_restorer_counts_for_more_with_denoise(less: float, more: float) -> None:
    less, more = sorted((less, more))
    assert all(a <= b for a, b in zip(fused_share(less), fused_share(more), strict=True))
    assert [fused_share(level) for level in (0.0, 0.25, 0.5, 1.0)] == [(0, 0), (0.5, 0), (1, 0), (1, LEAN)]


def test_what_the_gate_counts_is_what_its_training_sees() -> None:
    fusion = Fusion(4, first_width=4, second_width=4, width=8, blocks=1, gate_reach=2)
    gain = torch.randn(2, 1, 7, 5, generator=torch.Generator().manual_seed(0))
    found = fusion.gate.neighbourhood(gain.numpy())
    np.testing.assert_allclose(found, fusion.neighbourhood(gain), atol=1e-6)


@law
@given(height=st.integers(1, 500), width=st.integers(1, 500))
def test_its_tiles_cover_the_picture_once(height: int, width: int) -> None:
    tiles = second_tiles(Size(height, width))
    covered = np.zeros((height, width))
    for part in tiles:
        part.of(covered)[:] += 1
        assert max(part.bottom - part.top, part.right - part.left) <= restore.SECOND_TILE
    assert (covered == 1).all()


def test_it_is_asked_if_the_gate_says_so_and_never_at_zero(tiny_pipeline: PatchScalerPipeline, photo: object) -> None:
    gated = tiny_pipeline(photo, steps=(0, 0, 0), output_type="pt")
    never = tiny_pipeline(photo, steps=(0, 0, 0), denoise=0.0, output_type="pt")
    always = tiny_pipeline(photo, steps=(0, 0, 0), denoise=1.0, output_type="pt")
    fast = tiny_pipeline(photo, quality="fast", output_type="pt")
    assert 0.5 <= gated.report.denoise <= always.report.denoise == 1
    closed = build_tiny_pipeline()
    closed.fusion.register_to_config(gate_limit=100.0)
    unasked = closed(photo, steps=(0, 0, 0), output_type="pt")
    assert torch.equal(unasked.images, never.images)
    for result in (unasked, never, fast):
        assert result.report.denoise == 0
        assert "second" not in result.report.stages
    assert (gated.images - never.images).abs().max() > 0.01
    for wrong in (-0.1, 1.5):
        with pytest.raises(ConfigError, match=f"denoise {wrong} must lie in"):
            tiny_pipeline(photo, denoise=wrong)


def test_tiles_of_the_second_restorer_leave_no_seams(
    tiny_pipeline: PatchScalerPipeline, photo: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tiny_pipeline(photo, steps=(0, 0, 0), denoise=1.0, output_type="pt").images
    monkeypatch.setattr(restore, "SECOND_TILE", 9)
    tiled = tiny_pipeline(photo, steps=(0, 0, 0), denoise=1.0, output_type="pt").images
    torch.testing.assert_close(tiled, whole, atol=1e-4, rtol=0)  # this small network sees no further than the halo


def test_a_model_has_both_second_parts_or_none(tiny_pipeline: PatchScalerPipeline, tmp_path: Path) -> None:
    tiny_pipeline.save_pretrained(tmp_path / "both")
    again = PatchScalerPipeline.from_pretrained(tmp_path / "both", dtype=torch.float32)
    for name in ("second_restorer", "fusion"):
        for key, value in getattr(tiny_pipeline, name).state_dict().items():
            assert torch.equal(value, getattr(again, name).state_dict()[key])
    parts = {name: part for name, part in tiny_pipeline.components.items() if name not in ("second_restorer", "fusion")}
    alone = PatchScalerPipeline(**parts)
    alone.save_pretrained(tmp_path / "alone")
    assert PatchScalerPipeline.from_pretrained(tmp_path / "alone").fusion is None
    for path in (tmp_path / "both" / "fusion").iterdir():
        path.unlink()
    (tmp_path / "both" / "fusion").rmdir()
    with pytest.raises(WeightsError, match="second_restorer and fusion go together, but only second_restorer is there"):
        PatchScalerPipeline.from_pretrained(tmp_path / "both")


def test_settings_refuse_another_range() -> None:
    with pytest.raises(ConfigError, match="denoise"):
        replace(Options(), denoise=2.0)
