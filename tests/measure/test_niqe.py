"""NIQE and DISTS: their parts against SciPy and torch, laws, and values by an independent implementation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats
from torch.nn import functional as F

from lpips_weights import pair
from patchscaler.metrics import niqe as module
from patchscaler.metrics.dists import Dists
from patchscaler.metrics.niqe import BLOCK, Niqe
from patchscaler.metrics.trunks import Vgg16Trunk


@pytest.fixture(scope="module")
def niqe() -> Niqe:
    return Niqe()


@pytest.fixture(scope="module")
def dists() -> Dists:
    torch.manual_seed(0)
    return Dists(Vgg16Trunk(), torch.rand(1475), torch.rand(1475), "random", "")


def test_values_by_an_independent_implementation(niqe: Niqe) -> None:
    """One that gives MATLAB's published values."""
    degraded, sharp = pair()
    assert niqe(degraded) == pytest.approx(6.301861106, abs=1e-3)
    assert niqe(sharp) == pytest.approx(4.446071155, abs=1e-3)


@settings(deadline=None, max_examples=20)
@given(height=st.integers(7, 30), width=st.integers(7, 30), seed=st.integers(0, 2**16))
def test_normalised_luma_agrees_with_scipy(height: int, width: int, seed: int) -> None:
    luma = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.float64)

    def smooth(plane: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(plane, 7 / 6, mode="nearest", radius=3)

    mean = smooth(luma)
    wanted = (luma - mean) / (np.sqrt(np.abs(smooth(luma**2) - mean**2)) + 1)
    found = module._normalise(torch.from_numpy(luma)[None, None])[0, 0]
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-9)


def test_halving_agrees_with_torch_inside_and_mirrors_the_border() -> None:
    luma = torch.rand(1, 1, 24, 36, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mirrored = torch.cat([luma.flip(2), luma, luma.flip(2)], dim=2)
    mirrored = torch.cat([mirrored.flip(3), mirrored, mirrored.flip(3)], dim=3)
    wanted = F.interpolate(mirrored, scale_factor=0.5, mode="bicubic", antialias=True)[..., 12:24, 18:36]
    torch.testing.assert_close(module._halve(luma), wanted)


@pytest.mark.parametrize("shape", [0.8, 1.0, 2.0, 4.0])
def test_the_fit_finds_the_distribution_it_was_drawn_from(niqe: Niqe, shape: float) -> None:
    """Widths 1 and 2, each side as likely as it is wide: Lasmar's asymmetric generalised Gaussian."""
    magnitudes = np.abs(stats.gennorm.rvs(shape, size=(2, 600, 600), random_state=1))
    right = np.random.default_rng(2).random(magnitudes.shape) < 2 / 3
    found = niqe._fit(torch.from_numpy(np.where(right, 2 * magnitudes, -magnitudes)))
    for values, wanted in zip(found, (shape, 1.0, 2.0), strict=True):
        np.testing.assert_allclose(values, wanted, rtol=0.06)


def test_noise_and_blur_look_less_natural(niqe: Niqe) -> None:
    _, sharp = pair()
    noise = torch.randn(sharp.shape, generator=torch.Generator().manual_seed(0))
    natural = niqe(sharp)
    assert niqe((sharp + 0.1 * noise).clamp(0, 1)) > natural + 1
    assert niqe(F.avg_pool2d(sharp, 5, stride=1, padding=2, count_include_pad=False)) > natural + 1


@pytest.mark.parametrize("size", [(BLOCK - 1, 500), (BLOCK, 2 * BLOCK - 1), (8, 8)])
def test_too_small_a_picture_has_no_value(niqe: Niqe, size: tuple[int, int]) -> None:
    assert math.isnan(niqe(torch.rand(1, 3, *size)))


def test_a_flat_picture_has_no_value(niqe: Niqe) -> None:
    assert math.isnan(niqe(torch.full((1, 3, 192, 192), 0.0)))


def test_only_whole_blocks_count(niqe: Niqe) -> None:
    _, sharp = pair()
    assert niqe(sharp[..., :BLOCK, :]) == niqe(sharp[..., : 2 * BLOCK - 1, : 2 * BLOCK + 5])


def test_dists_is_a_distance(dists: Dists) -> None:
    a, b = torch.rand(2, 2, 3, 24, 20, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        taps_a, taps_b = dists(a), dists(b)
        assert [tap.shape[1] for tap in taps_a] == list(dists.widths)
        torch.testing.assert_close(dists.distance(taps_a, taps_a), torch.zeros(2), rtol=0, atol=1e-6)
        there = dists.distance(taps_a, taps_b)
        assert (there > 0.001).all()
        torch.testing.assert_close(there, dists.distance(taps_b, taps_a))


def test_dists_forgives_a_texture_moved(dists: Dists) -> None:
    """The same noise elsewhere keeps the means of all features, which is half of what DISTS looks at."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(1, 3, 64, 64, generator=generator)
    with torch.no_grad():
        moved = dists.distance(dists(noise), dists(noise.roll((5, 9), (2, 3))))
        other = dists.distance(dists(noise), dists(noise.clamp(0.4, 0.6)))
    assert 0 < float(moved) < float(other)
