"""PSNR and SSIM against scikit-image."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from patchscaler.imaging.colour import rgb_to_y
from patchscaler.metrics.fidelity import psnr_y, ssim_y


def pair(height: int, width: int, strength: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first = torch.rand(1, 3, height, width, generator=generator)
    noise = torch.randn(first.shape, generator=generator) * strength
    return first, (first + noise).clamp(0, 1)


def luma(pixels: torch.Tensor, shave: int):
    plane = rgb_to_y(pixels.double())[0, 0].numpy()
    return plane[shave : plane.shape[0] - shave, shave : plane.shape[1] - shave]


@settings(deadline=None, max_examples=25)
@given(
    height=st.integers(19, 40),
    width=st.integers(19, 40),
    shave=st.integers(0, 4),
    strength=st.floats(0.001, 0.5),
    seed=st.integers(0, 2**16),
)
def test_agree_with_scikit_image(height, width, shave, strength, seed):
    first, second = pair(height, width, strength, seed)
    a, b = luma(first, shave), luma(second, shave)
    ssim = structural_similarity(a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0)
    assert psnr_y(first, second, shave) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1.0), abs=1e-6)
    assert ssim_y(first, second, shave) == pytest.approx(ssim, abs=1e-9)


def test_equal_pictures_and_an_error_of_known_size():
    first, _ = pair(20, 21, 0.1, 0)
    assert psnr_y(first, first) == math.inf
    assert ssim_y(first, first) == pytest.approx(1.0, abs=1e-12)
    grey = torch.full((1, 3, 20, 20), 0.5)
    step = 10 / 219 * 255 / 255  # ten levels of luma's 219
    assert psnr_y(grey, grey + step) == pytest.approx(20 * math.log10(25.5), abs=1e-4)


def test_the_border_does_not_count():
    first, _ = pair(24, 24, 0.1, 0)
    second = first.clone()
    second[..., :4, :] = 0
    second[..., -4:] = 1
    assert psnr_y(first, second, 4) == math.inf
    assert psnr_y(first, second, 3) < 40


def test_pictures_that_cannot_be_compared_are_refused():
    first = torch.rand(1, 3, 20, 20)
    for measure in (psnr_y, ssim_y):
        with pytest.raises(ValueError, match=r"\(1, 3, 20, 20\) and \(1, 3, 20, 19\)"):
            measure(first, first[..., :-1])
        with pytest.raises(ValueError, match="0x0"):
            measure(first, first, 10)
    with pytest.raises(ValueError, match="10x10 pixels, at least 11x11"):
        ssim_y(first, first, 5)
