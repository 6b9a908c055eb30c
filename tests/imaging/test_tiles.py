"""Laws of the patch grid: patches cover everything, and blending undoes cutting."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrays import assert_close, normal
from patchscaler.errors import ConfigError
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.tiles import (
    PatchGrid,
    merge,
    pad_to_patch,
    padded_size,
    patch_origins,
    raised_cosine_window,
    split,
)

law = settings(deadline=None, max_examples=25)


@st.composite
def grids(draw: st.DrawFn) -> tuple[Size, int, int]:
    patch = draw(st.integers(1, 16))
    size = Size(draw(st.integers(patch, 50)), draw(st.integers(patch, 50)))
    return size, patch, draw(st.integers(1, patch))


@law
@given(grids(), st.integers(1, 5), st.integers(0, 2**31))
def test_merge_undoes_split(parts: tuple[Size, int, int], channels: int, seed: int) -> None:
    grid = PatchGrid(*parts)
    latents = normal(1, channels, *grid.size, seed=seed)
    patches = split(latents, grid)
    assert patches.shape == (grid.count, channels, grid.patch, grid.patch)
    window = raised_cosine_window(grid.patch, grid.patch - grid.stride)
    assert_close(merge(patches, grid, window), latents, atol=1e-5, rtol=1e-5)


@law
@given(grids())
def test_patches_are_the_crops_in_row_major_order(parts: tuple[Size, int, int]) -> None:
    grid = PatchGrid(*parts)
    latents = np.arange(2 * grid.size.height * grid.size.width).reshape(1, 2, *grid.size)
    crops = [latents[0, :, row : row + grid.patch, col : col + grid.patch] for row in grid.rows for col in grid.cols]
    assert np.array_equal(split(latents, grid), np.stack(crops))


@law
@given(st.integers(1, 16), st.data())
def test_origins_start_at_zero_end_flush_and_leave_no_gap(patch: int, data: st.DataObject) -> None:
    stride, length = data.draw(st.integers(1, patch)), data.draw(st.integers(patch, 100))
    origins = patch_origins(length, patch, stride)
    assert origins[0] == 0
    assert origins[-1] == length - patch
    assert all(0 < after - before <= stride for before, after in pairwise(origins))


@pytest.mark.parametrize(("stride", "count"), [(16, 256), (12, 441), (8, 961)])
def test_patches_of_a_2048_pixel_picture(stride: int, count: int) -> None:
    assert PatchGrid(Size(256, 256), 16, stride).count == count


@law
@given(st.integers(1, 64), st.data())
def test_windows_are_positive_and_symmetric(patch: int, data: st.DataObject) -> None:
    window = raised_cosine_window(patch, data.draw(st.integers(0, patch - 1)))
    assert window.dtype == np.float32
    assert window.min() > 0
    assert window.max() <= 1
    assert np.array_equal(window, window[::-1, ::-1])
    assert np.array_equal(window, window.T)


@pytest.mark.parametrize(("overlap", "constant"), [(0, 1), (1, 1), (4, 1), (7, 1), (8, 1), (12, 2)])
def test_shifted_windows_sum_to_a_constant(overlap: int, constant: int) -> None:
    side = np.sqrt(raised_cosine_window(16, overlap).diagonal())
    total = np.zeros((200,), np.float32)
    for origin in patch_origins(200, 16, 16 - overlap):
        total[origin : origin + 16] += side
    assert_close(total[16:-32], np.full(152, float(constant)))


def test_no_overlap_weighs_all_alike() -> None:
    assert np.array_equal(
        raised_cosine_window(16, 0),
        np.ones(
            (
                16,
                16,
            ),
            np.float32,
        ),
    )


def test_merge_accumulates_half_precision_in_float32() -> None:
    grid = PatchGrid(Size(20, 23), 16, 4)
    latents = normal(1, 3, 20, 23).astype(np.float16)
    merged = merge(split(latents, grid), grid, raised_cosine_window(16, 12))
    assert merged.dtype == np.float32
    assert_close(merged, latents, atol=1e-5, rtol=1e-5)


@law
@given(st.integers(1, 20), st.integers(1, 20))
def test_padding_repeats_the_border_and_crops_back(height: int, width: int) -> None:
    latents = normal(1, 2, height, width, seed=0)
    padded = pad_to_patch(latents, 16)
    assert padded.shape[-2:] == padded_size(Size(height, width), 16)
    assert min(padded.shape[-2:]) >= 16
    assert np.array_equal(padded[..., :height, :width], latents)
    assert np.array_equal(padded[..., -1, -1], latents[..., -1, -1])


def test_contradictions_are_named() -> None:
    grid, window = (
        PatchGrid(Size(16, 16), 8, 8),
        np.ones(
            (
                8,
                8,
            ),
            np.float32,
        ),
    )
    with pytest.raises(ConfigError, match="stride 9"):
        patch_origins(20, 8, 9)
    with pytest.raises(ConfigError, match="stride 0"):
        PatchGrid(Size(16, 16), 8, 0)
    with pytest.raises(ConfigError, match="side of 7"):
        PatchGrid(Size(16, 7), 8, 8)
    with pytest.raises(ConfigError, match="overlap 8"):
        raised_cosine_window(8, 8)
    with pytest.raises(ConfigError, match="do not fit"):
        split(
            np.zeros(
                (
                    1,
                    1,
                    16,
                    17,
                ),
                np.float32,
            ),
            grid,
        )
    with pytest.raises(ConfigError, match="3 patches"):
        merge(
            np.zeros(
                (
                    3,
                    1,
                    8,
                    8,
                ),
                np.float32,
            ),
            grid,
            window,
        )
