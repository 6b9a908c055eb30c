"""Degradation: a function of (seed, index), correct kernels, and as strong as its config says."""

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage, special

from patchscaler.data.camera import CameraConfig
from patchscaler.data.degradation import PLAIN_BICUBIC, DegradationConfig, OrderConfig, degrade, degrade_at
from patchscaler.data.kernels import KERNEL_KINDS, blur_kernel, sinc_kernel
from patchscaler.errors import ConfigError

few = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**32 - 1)
odd_sizes = st.integers(0, 10).map(lambda n: 2 * n + 1)
NAMED = {
    "bicubic": DegradationConfig.bicubic(),
    "camera": CameraConfig(),
    "mild": DegradationConfig.mild(),
    "real_esrgan": DegradationConfig.real_esrgan(),
    "resshift": DegradationConfig.resshift(),
}


def synthetic(height: int, width: int) -> torch.Tensor:
    """Waves, an edge and a disc in colour, at 8-bit levels."""
    y, x = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None, :]
    waves = 0.5 + 0.2 * torch.sin(60 * x * y) + 0.1 * torch.cos(25 * (x + y))
    disc = ((x - 0.4) ** 2 + (y - 0.6) ** 2 < 0.06).float() * 0.2
    edge = (x > 0.7).float() * 0.15
    image = torch.stack([waves + disc, waves - edge, 0.8 * waves + 0.5 * edge])
    return (image.clamp(0, 1) * 255).round() / 255


def single(**changes: Any) -> DegradationConfig:
    """Plain bicubic with changes to its one order."""
    return DegradationConfig(first=replace(PLAIN_BICUBIC, **changes), second=None, final_sinc_probability=0.0)


def mean_psnr(config: DegradationConfig, count: int = 24) -> float:
    image = synthetic(96, 96)
    clean = degrade_at(image, DegradationConfig.bicubic(), 0, 0)
    errors = [(degrade_at(image, config, 3, index) - clean).square().mean().item() for index in range(count)]
    return float(np.mean([-10 * math.log10(error + 1e-10) for error in errors]))


# Laws


@pytest.mark.parametrize("name", NAMED)
def test_function_of_seed_and_index(name: str) -> None:
    image, before = synthetic(64, 48), synthetic(64, 48)
    forward = [degrade_at(image, NAMED[name], 7, index) for index in range(6)]
    np.random.default_rng(0).random()
    torch.rand(5)
    with torch.autocast("cpu", torch.bfloat16):  # as within a training step
        backward = [degrade_at(image, NAMED[name], 7, index) for index in reversed(range(6))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert torch.equal(image, before)
    if name != "bicubic":
        assert all(not torch.equal(a, b) for a, b in itertools.pairwise(forward))
        assert not torch.equal(forward[0], degrade_at(image, NAMED[name], 8, 0))


@few
@given(st.sampled_from(sorted(NAMED)), st.integers(1, 16), st.integers(1, 16), st.sampled_from([1, 2, 3, 4]), seeds)
def test_size_range_and_levels(name: str, rows: int, columns: int, scale: int, seed: int) -> None:
    image = torch.from_numpy(np.random.default_rng(seed).random((3, rows * scale, columns * scale), dtype=np.float32))
    out = degrade_at(image, NAMED[name], seed, 0, scale)
    assert out.shape == (3, rows, columns)
    assert out.dtype == torch.float32
    assert out.min() >= 0
    assert out.max() <= 1
    torch.testing.assert_close(out * 255, (out * 255).round(), atol=1e-4, rtol=0)


@few
@given(
    st.tuples(*[st.integers(0, 9)] * len(KERNEL_KINDS)).filter(any),
    st.floats(0, 1),
    st.tuples(st.floats(0.01, 5), st.floats(0.01, 5)).map(lambda pair: (min(pair), max(pair))),
    st.floats(0.1, 1),
    st.floats(1, 2),
    seeds,
)
def test_any_config_gives_a_picture(
    weights: tuple[int, ...], probability: float, sigma: tuple[float, float], low: float, high: float, seed: int
) -> None:
    order = OrderConfig(
        blur_probability=probability,
        kernel_probabilities=tuple(w / sum(weights) for w in weights),
        sinc_probability=1 - probability,
        blur_sigma=sigma,
        resize_scale=(low, high),
        resize_modes=("area", "bicubic", "bicubic antialias"),
        gaussian_probability=probability,
        jpeg_quality=None if seed % 2 else (1, 100),
    )
    out = degrade_at(synthetic(32, 24), DegradationConfig(first=order, second=order), seed, 0)
    assert out.shape == (3, 8, 6)
    assert torch.isfinite(out).all()


@few
@given(
    st.sampled_from(KERNEL_KINDS),
    odd_sizes,
    st.floats(0.01, 5),
    st.floats(0.01, 5),
    st.floats(-math.pi, math.pi),
    st.floats(0.1, 10),
)
def test_blur_kernels(kind: str, size: int, sigma_x: float, sigma_y: float, angle: float, beta: float) -> None:
    kernel = blur_kernel(kind, size, sigma_x, sigma_y, angle, beta)
    assert kernel.dtype == torch.float32
    assert torch.isfinite(kernel).all()
    assert kernel.min() >= 0
    assert kernel.sum().item() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(kernel, kernel.flip(0, 1))
    if not kind.endswith("aniso"):
        torch.testing.assert_close(kernel, kernel.T)


@pytest.mark.parametrize("family", ["", "generalised ", "plateau "])
def test_kernel_is_wide_along_its_angle(family: str) -> None:
    kernel = blur_kernel(f"{family}aniso", 21, 3.0, 0.8, math.pi / 2, 1.0)
    columns, rows = kernel.sum(0), kernel.sum(1)
    assert rows[:7].sum() > 2 * columns[:7].sum()


def test_generalised_with_beta_one_is_gaussian() -> None:
    arguments = (15, 2.0, 0.7, 0.4, 1.0)
    torch.testing.assert_close(blur_kernel("generalised aniso", *arguments), blur_kernel("aniso", *arguments))


@few
@given(odd_sizes, st.floats(math.pi / 5, math.pi))
def test_sinc_kernel_agrees_with_scipy(size: int, cutoff: float) -> None:
    kernel = sinc_kernel(size, cutoff)
    y, x = np.mgrid[:size, :size] - size // 2
    radius = np.hypot(y, x) + 1e-9
    expected = cutoff * special.j1(cutoff * radius) / (2 * np.pi * radius)
    np.testing.assert_allclose(kernel.numpy(), expected / expected.sum(), atol=1e-5)
    assert kernel.sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("shape", [(7, 6), (5, 16), (0, 3)])
def test_sizes_that_are_no_multiple_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="multiple of scale 4"):
        degrade_at(torch.zeros(3, *shape), DegradationConfig(), 0, 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"blur_probability": 1.2}, "blur_probability .*1.2"),
        ({"grey_probability": float("nan")}, "grey_probability .*nan"),
        ({"kernel_probabilities": (0.5, 0.4)}, "6 probabilities"),
        ({"resize_probabilities": (0.5, 0.5, 0.5)}, "sum 1.5"),
        ({"kernel_size": (6, 20)}, "odd"),
        ({"kernel_size": (21, 7)}, r"\(21, 7\)"),
        ({"blur_sigma": (0.0, 1.0)}, "blur_sigma"),
        ({"resize_scale": (1.1, 1.5)}, "span 1"),
        ({"resize_modes": ("nearest",)}, "nearest"),
        ({"resize_modes": ()}, "resize_modes"),
        ({"gaussian_sigma": (-1.0, 3.0)}, "gaussian_sigma"),
        ({"jpeg_quality": (95, 30)}, "jpeg_quality"),
        ({"jpeg_quality": (0, 30)}, "jpeg_quality"),
    ],
)
def test_bad_order_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        OrderConfig(**changes)


@pytest.mark.parametrize(
    "changes",
    [{"final_sinc_probability": -0.1}, {"final_sinc_size": (8, 21)}, {"final_sinc_cutoff": (1.0, 4.0)}],
)
def test_bad_config_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        DegradationConfig(**changes)


# Witnesses


@pytest.mark.parametrize("shape", [(64, 96), (20, 8), (4, 4)])
def test_bicubic_agrees_with_pillow(shape: tuple[int, int]) -> None:
    image = synthetic(*shape)
    ours = degrade_at(image, DegradationConfig.bicubic(), 0, 0)
    bytes_ = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    small = Image.fromarray(bytes_).resize((shape[1] // 4, shape[0] // 4), Image.Resampling.BICUBIC)
    theirs = torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255
    torch.testing.assert_close(ours, theirs, atol=1.01 / 255, rtol=0)


@pytest.mark.parametrize(("shape", "border"), [((40, 33), "mirror"), ((6, 30), "nearest")])
def test_blur_agrees_with_scipy(shape: tuple[int, int], border: str) -> None:
    only_iso = (1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    config = single(
        blur_probability=1.0,
        kernel_size=(13, 13),
        kernel_probabilities=only_iso,
        sinc_probability=0.0,
        blur_sigma=(1.7, 1.7),
    )
    image = synthetic(*shape)
    kernel = blur_kernel("iso", 13, 1.7, 1.7, 0.0, 1.0).numpy()
    expected = np.stack([ndimage.convolve(channel, kernel, mode=border) for channel in image.numpy()])
    ours = degrade_at(image, config, 0, 0, scale=1)
    np.testing.assert_allclose(ours.numpy(), expected, atol=0.501 / 255)


@pytest.mark.parametrize("grey", [0.0, 1.0])
def test_gaussian_noise_has_the_level_asked_for(grey: float) -> None:
    config = single(gaussian_sigma=(12.0, 12.0), grey_probability=grey)
    noise = degrade_at(torch.full((3, 256, 256), 0.5), config, 1, 0, scale=1) - 0.5
    assert noise.std().item() * 255 == pytest.approx(12, rel=0.03)
    assert torch.equal(noise[0], noise[2]) == bool(grey)


@pytest.mark.parametrize("grey", [0.0, 1.0])
def test_poisson_noise_has_the_level_asked_for(grey: float) -> None:
    config = single(gaussian_probability=0.0, poisson_scale=(1.5, 1.5), grey_probability=grey)
    ramp = torch.arange(64, 192).float().repeat(3, 128, 1) / 255  # 128 levels: 128 photons at white
    noise = degrade_at(ramp, config, 1, 0, scale=1) - ramp
    expected = 1.5 * (ramp / 128).mean().sqrt().item()
    assert noise.std().item() == pytest.approx(expected, rel=0.05)
    assert noise[:, :, 64:].std() > 1.2 * noise[:, :, :64].std()
    assert torch.equal((noise[0] * 255).round(), (noise[2] * 255).round()) == bool(grey)


# Portraits


def test_more_noise_and_lower_quality_are_worse() -> None:
    noise = [mean_psnr(single(gaussian_sigma=(sigma, sigma)), 4) for sigma in (1.0, 5.0, 25.0)]
    assert noise == sorted(noise, reverse=True)
    jpeg = [mean_psnr(single(jpeg_quality=(quality, quality)), 1) for quality in (95, 60, 20)]
    assert jpeg == sorted(jpeg, reverse=True)


def test_mild_is_milder_than_real_esrgan() -> None:
    mild, harsh = mean_psnr(NAMED["mild"]), mean_psnr(NAMED["real_esrgan"])
    assert mild > harsh + 5


def test_generator_is_advanced() -> None:
    generator = np.random.default_rng(0)
    first, second = (degrade(synthetic(32, 32), NAMED["mild"], generator) for _ in range(2))
    assert not torch.equal(first, second)
