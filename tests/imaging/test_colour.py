"""Luma against scikit-image, the wavelet colour fix against its definition."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import rgb2ycbcr
from torch.nn import functional as F

from patchscaler.imaging.colour import WAVELET_REACH, rgb_to_y, wavelet_colour_fix

sides = st.integers(1, 70)
seeds = st.integers(0, 2**16)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def low_band(pixels: torch.Tensor, levels: int) -> torch.Tensor:
    """The definition, by padding and convolution: [1 2 1]/4 x [1 2 1]/4, dilated, border replicated."""
    kernel = torch.tensor([1.0, 2.0, 1.0])
    weight = (kernel[:, None] * kernel / 16).expand(3, 1, 3, 3)
    for level in range(levels):
        padded = F.pad(pixels, (2**level,) * 4, mode="replicate")
        pixels = F.conv2d(padded, weight, groups=3, dilation=2**level)
    return pixels


@settings(deadline=None, max_examples=20)
@given(height=sides, width=sides, seed=seeds)
def test_luma_is_matlabs(height, width, seed):
    pixels = noise(2, 3, height, width, seed=seed)
    expected = rgb2ycbcr(pixels.double().numpy(), channel_axis=1)[:, :1] / 255
    np.testing.assert_allclose(rgb_to_y(pixels).numpy(), expected, atol=1e-6)


def test_luma_range_is_studio():
    assert rgb_to_y(torch.zeros(1, 3, 1, 1)).item() == pytest.approx(16 / 255)
    assert rgb_to_y(torch.ones(1, 3, 1, 1)).item() == pytest.approx(235 / 255)


@settings(deadline=None, max_examples=25)
@given(height=sides, width=sides, levels=st.integers(1, 6), seed=seeds)
def test_fix_is_high_bands_plus_the_references_low_band(height, width, levels, seed):
    result, reference = noise(2, 3, height, width, seed=seed), noise(2, 3, height, width, seed=seed + 1)
    expected = result - low_band(result, levels) + low_band(reference, levels)
    torch.testing.assert_close(wavelet_colour_fix(result, reference, levels), expected, atol=2e-6, rtol=0)


@settings(deadline=None, max_examples=25)
@given(height=sides, width=sides, shift=st.floats(-0.5, 0.5), seed=seeds)
def test_equal_pictures_stay_and_a_constant_shift_goes(height, width, shift, seed):
    reference = noise(1, 3, height, width, seed=seed)
    tint = torch.tensor([shift, -shift, shift / 2]).view(1, 3, 1, 1)
    torch.testing.assert_close(wavelet_colour_fix(reference, reference), reference, atol=1e-5, rtol=0)
    torch.testing.assert_close(wavelet_colour_fix(reference + tint, reference), reference, atol=1e-5, rtol=0)


def test_detail_stays_and_slow_colours_come_from_the_reference():
    rows, columns = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    detail = 0.1 * (-1) ** (rows + columns)
    drift = 0.3 * rows / 255
    result = (0.4 + detail + drift).expand(1, 3, -1, -1)
    reference = (0.5 - drift).expand(1, 3, -1, -1)
    inside = (..., slice(70, -70), slice(70, -70))
    fixed = wavelet_colour_fix(result, reference)
    torch.testing.assert_close(fixed[inside], (reference + detail)[inside], atol=2e-3, rtol=0)


def test_reach_is_exact():
    result = torch.zeros(1, 3, 129, 129)
    reference = result.clone()
    reference[..., 64, 64] = 1.0
    rows, columns = wavelet_colour_fix(result, reference)[0, 0].nonzero(as_tuple=True)
    assert (rows.min(), rows.max()) == (64 - WAVELET_REACH, 64 + WAVELET_REACH)
    assert (columns.min(), columns.max()) == (64 - WAVELET_REACH, 64 + WAVELET_REACH)


def test_inputs_are_not_changed_and_shapes_must_agree():
    result, reference = noise(1, 3, 9, 8), noise(1, 3, 9, 8, seed=1)
    copies = result.clone(), reference.clone()
    wavelet_colour_fix(result, reference)
    assert torch.equal(result, copies[0])
    assert torch.equal(reference, copies[1])
    with pytest.raises(Exception, match=r"shape|[Tt]ype-check"):
        wavelet_colour_fix(result, reference[..., :-1])
