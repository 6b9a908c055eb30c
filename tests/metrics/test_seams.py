"""The seam measure: one where there are no seams, more where there are, whatever the picture's scale of contrast."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from patchscaler import PatchScalerPipeline
from patchscaler.imaging.geometry import Size
from patchscaler.metrics.seams import measure_seams, patch_borders

law = settings(deadline=None, max_examples=20)
ROWS, COLS = [96, 128], [96, 128, 192]


def seam_ratio(pixels: Tensor, rows: list[int], cols: list[int], scale: int = 1, grid: int = 8) -> float:
    return measure_seams(pixels, rows, cols, scale, grid).ratio


def slope(height: int = 224, width: int = 256) -> Tensor:
    """A flat gradient, the same step from every pixel to the next."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return ((y + x) / (height + width)).expand(1, 3, -1, -1).clone()


def with_step(pixels: Tensor, line: int, height: float) -> Tensor:
    stepped = pixels.clone()
    stepped[..., line:] += height
    return stepped


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_a_slope_has_no_seams(scale: int) -> None:
    assert seam_ratio(slope(), ROWS, COLS, scale) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("scale", [1, 8])
def test_a_step_at_a_border_shows_and_one_elsewhere_does_not(scale: int) -> None:
    steps = [seam_ratio(with_step(slope(), 128, height), ROWS, COLS, scale) for height in (0.0, 0.01, 0.05)]
    assert steps[0] < steps[1] < steps[2]
    assert steps[1] > 1.05
    assert seam_ratio(with_step(slope(), 136, 0.05), ROWS, COLS, scale) < 1
    assert seam_ratio(with_step(slope(), 132, 0.05), ROWS, COLS, 1) == pytest.approx(1, abs=1e-3)  # not on the grid


def test_only_lines_of_the_grid_are_compared() -> None:
    """Steps from each 16-pixel token to the next raise borders that lie there, but not above other tokens' edges."""
    tokens = slope() + 0.01 * (torch.arange(256) // 16) + 0.01 * (torch.arange(224)[:, None] // 16)
    assert seam_ratio(tokens, [96], [96, 128], grid=8) > 1.05
    assert seam_ratio(tokens, [96], [96, 128], grid=16) == pytest.approx(1, abs=0.05)


@law
@given(gain=st.floats(0.1, 1), offset=st.floats(0, 0.5), seed=st.integers(0, 9))
def test_contrast_and_brightness_do_not_matter(gain: float, offset: float, seed: int) -> None:
    pixels = torch.rand(1, 3, 224, 256, generator=torch.Generator().manual_seed(seed))
    found = seam_ratio(pixels * gain + offset, ROWS, COLS)
    assert found == pytest.approx(seam_ratio(pixels, ROWS, COLS), rel=1e-3)
    assert found == pytest.approx(1, abs=0.1)  # noise has no seams


def test_borders_of_a_real_grid(tiny_pipeline: PatchScalerPipeline) -> None:
    result = tiny_pipeline(torch.rand(3, 45, 61), steps=(0, 0, 0), output_type="pt")
    rows, cols = patch_borders(result.patch_boxes, Size(180, 244))
    assert (rows, cols) == ([56, 128], [96, 120, 128, 224])  # 23 x 31 latents: patches at 0, 7 and at 0, 12, 15
    assert 0.5 < seam_ratio(result.images, rows, cols) < 2


@pytest.mark.parametrize(("rows", "cols", "scale"), [([], [], 1), (range(8, 64, 8), range(8, 64, 8), 1), ([8], [8], 3)])
def test_nothing_to_compare(rows: list[int], cols: list[int], scale: int) -> None:
    with pytest.raises(ValueError, match=r"nothing to compare|must divide"):
        seam_ratio(torch.rand(1, 3, 64, 64), list(rows), list(cols), scale)
