"""Luma against scikit-image, the wavelet colour fix against its definition."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import rgb2ycbcr
from torch.nn import functional as F

from arrays import assert_close, uniform
from patchscaler.imaging.colour import WAVELET_REACH, rgb_to_y, wavelet_colour_fix

sides = st.integers(1, 70)
seeds = st.integers(0, 2**16)


def low_band(pixels: np.ndarray, levels: int) -> np.ndarray:
    """The definition, by padding and convolution: [1 2 1]/4 x [1 2 1]/4, dilated, border replicated."""
    kernel = torch.tensor([1.0, 2.0, 1.0])
    weight = (kernel[:, None] * kernel / 16).expand(3, 1, 3, 3)
    pixels = torch.from_numpy(pixels)
    for level in range(levels):
        padded = F.pad(pixels, (2**level,) * 4, mode="replicate")
        pixels = F.conv2d(padded, weight, groups=3, dilation=2**level)
    return pixels.numpy()


@settings(deadline=None, max_examples=20)
@given(height=sides, width=sides, seed=seeds)
def test_luma_is_matlabs(height, width, seed):
    pixels = uniform(2, 3, height, width, seed=seed)
    expected = rgb2ycbcr(pixels.astype(np.float64), channel_axis=1)[:, :1] / 255
    np.testing.assert_allclose(rgb_to_y(pixels), expected, atol=1e-6)


def test_luma_range_is_studio():
    assert rgb_to_y(
        np.zeros(
            (
                1,
                3,
                1,
                1,
            ),
            np.float32,
        )
    ).item() == pytest.approx(16 / 255)
    assert rgb_to_y(
        np.ones(
            (
                1,
                3,
                1,
                1,
            ),
            np.float32,
        )
    ).item() == pytest.approx(235 / 255)


@settings(deadline=None, max_examples=25)
@given(height=sides, width=sides, levels=st.integers(1, 6), seed=seeds)
def test_fix_is_high_bands_plus_the_references_low_band(height, width, levels, seed):
    result, reference = uniform(2, 3, height, width, seed=seed), uniform(2, 3, height, width, seed=seed + 1)
    expected = result - low_band(result, levels) + low_band(reference, levels)
    assert_close(wavelet_colour_fix(result, reference, levels), expected, atol=2e-6, rtol=0)


@settings(deadline=None, max_examples=25)
@given(height=sides, width=sides, shift=st.floats(-0.5, 0.5), seed=seeds)
def test_equal_pictures_stay_and_a_constant_shift_goes(height, width, shift, seed):
    reference = uniform(1, 3, height, width, seed=seed)
    tint = np.array([shift, -shift, shift / 2], np.float32).reshape(1, 3, 1, 1)
    assert_close(wavelet_colour_fix(reference, reference), reference, atol=1e-5, rtol=0)
    assert_close(wavelet_colour_fix(reference + tint, reference), reference, atol=1e-5, rtol=0)


def test_detail_stays_and_slow_colours_come_from_the_reference():
    rows, columns = np.mgrid[:256, :256].astype(np.float32)
    detail = 0.1 * (-1) ** (rows + columns)
    drift = 0.3 * rows / 255
    result = np.tile(0.4 + detail + drift, (1, 3, 1, 1))
    reference = np.tile(0.5 - drift, (1, 3, 1, 1))
    inside = (..., slice(70, -70), slice(70, -70))
    fixed = wavelet_colour_fix(result, reference)
    assert_close(fixed[inside], (reference + detail)[inside], atol=2e-3, rtol=0)


def test_reach_is_exact():
    result = np.zeros(
        (
            1,
            3,
            129,
            129,
        ),
        np.float32,
    )
    reference = result.copy()
    reference[..., 64, 64] = 1.0
    rows, columns = wavelet_colour_fix(result, reference)[0, 0].nonzero()
    assert (rows.min(), rows.max()) == (64 - WAVELET_REACH, 64 + WAVELET_REACH)
    assert (columns.min(), columns.max()) == (64 - WAVELET_REACH, 64 + WAVELET_REACH)


def test_inputs_are_not_changed_and_shapes_must_agree():
    result, reference = uniform(1, 3, 9, 8), uniform(1, 3, 9, 8, seed=1)
    copies = result.copy(), reference.copy()
    wavelet_colour_fix(result, reference)
    assert np.array_equal(result, copies[0])
    assert np.array_equal(reference, copies[1])
    with pytest.raises(Exception, match=r"shape|[Tt]ype-check"):
        wavelet_colour_fix(result, reference[..., :-1])
