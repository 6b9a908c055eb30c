"""Bicubic resizing against Pillow's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from arrays import assert_close
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.resize import resize_bicubic

sides = st.integers(1, 60)


@settings(deadline=None, max_examples=25)
@given(height=sides, width=sides, to_height=sides, to_width=sides, seed=st.integers(0, 2**16))
def test_agrees_with_pillow_on_floats(height, width, to_height, to_width, seed):
    plane = np.random.default_rng(seed).random((height, width), dtype=np.float32)
    expected = Image.fromarray(plane).resize((to_width, to_height), Image.Resampling.BICUBIC)
    resized = resize_bicubic(plane[None, None], Size(to_height, to_width))
    np.testing.assert_allclose(resized[0, 0], np.asarray(expected), atol=2e-5)


@pytest.mark.parametrize("width", [1, 2, 9])
@pytest.mark.parametrize("to_height", [1, 2, 7, 20])
def test_one_pixel_wide_results(width, to_height):
    plane = np.random.default_rng(0).random((5, width), dtype=np.float32)
    expected = Image.fromarray(plane).resize((1, to_height), Image.Resampling.BICUBIC)
    resized = resize_bicubic(plane[None, None], Size(to_height, 1))
    np.testing.assert_allclose(resized[0, 0], np.asarray(expected), atol=2e-5)


@pytest.mark.parametrize("size", [Size(24, 35), Size(384, 560), Size(95, 17), Size(96, 140)])
def test_agrees_with_pillow_on_bytes_within_rounding(size):
    samples = np.random.default_rng(1).integers(0, 256, (96, 140, 3), dtype=np.uint8)
    expected = Image.fromarray(samples).resize((size.width, size.height), Image.Resampling.BICUBIC)
    pixels = samples.transpose(2, 0, 1)[None] / np.float32(255)
    resized = np.round(resize_bicubic(pixels, size, clamp=True)[0].transpose(1, 2, 0) * 255)
    # Pillow rounds and clips between its two passes; a level or two is its rounding, clipping can cost a few more.
    difference = np.abs(resized - np.asarray(expected, np.float32))
    assert difference.mean() < 0.6
    assert np.quantile(difference, 0.9) <= 1


def test_a_constant_stays_and_clamping_removes_the_overshoot():
    flat = np.full((1, 2, 7, 5), 0.25, np.float32)
    assert_close(resize_bicubic(flat, Size(28, 20)), np.full((1, 2, 28, 20), 0.25, np.float32))
    edge = np.zeros(
        (
            1,
            1,
            8,
            8,
        ),
        np.float32,
    )
    edge[..., 4:] = 1.0
    free, clamped = resize_bicubic(edge, Size(32, 32)), resize_bicubic(edge, Size(32, 32), clamp=True)
    assert free.min() < 0 < 1 < free.max()
    assert np.array_equal(clamped, free.clip(0, 1))


def test_empty_sizes_are_refused():
    with pytest.raises(ValueError, match="0x3"):
        resize_bicubic(
            np.zeros(
                (
                    1,
                    1,
                    4,
                    4,
                ),
                np.float32,
            ),
            Size(0, 3),
        )
