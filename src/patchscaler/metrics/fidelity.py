"""PSNR and SSIM on luma, as super-resolution papers report them (MATLAB's and BasicSR's numbers)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from patchscaler.imaging.colour import rgb_to_y

SSIM_WINDOW = 11  # px
SSIM_SIGMA = 1.5  # px
SSIM_K1, SSIM_K2 = 0.01, 0.03  # Wang et al. 2004, eq. 13: the constants that keep flat regions stable


def psnr_y(a: Float[Tensor, "1 3 h w"], b: Float[Tensor, "1 3 _ _"], shave: int = 4) -> float:
    """Peak signal-to-noise ratio in dB of two pictures (1,3,H,W) in [0, 1]; infinite if they are equal.

    On unrounded BT.601 luma, `shave` pixels of border left out (usually the scale).
    Raises ValueError if the shapes differ or nothing is left after shaving.
    """
    y_a, y_b = _shaved_luma(a, b, shave, smallest=1)
    error = (y_a - y_b).square().mean().item()
    return -10.0 * math.log10(error) if error > 0 else math.inf


def ssim_y(a: Float[Tensor, "1 3 h w"], b: Float[Tensor, "1 3 _ _"], shave: int = 4) -> float:
    """Structural similarity in [-1, 1] of two pictures (1,3,H,W) in [0, 1]; 1 if they are equal.

    Wang et al. 2004: Gaussian window 11x11, sigma 1.5, data range 1, the mean over positions where the window fits.
    On unrounded BT.601 luma, `shave` pixels of border left out.
    Raises ValueError if the shapes differ or less than 11x11 pixels are left after shaving.
    """
    y_a, y_b = _shaved_luma(a, b, shave, smallest=SSIM_WINDOW)
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    mean_a, mean_b = _gaussian(y_a), _gaussian(y_b)
    variance_a = _gaussian(y_a * y_a) - mean_a * mean_a
    variance_b = _gaussian(y_b * y_b) - mean_b * mean_b
    covariance = _gaussian(y_a * y_b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a * mean_a + mean_b * mean_b + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return (luminance * structure).mean().item()


def _shaved_luma(a: Tensor, b: Tensor, shave: int, smallest: int) -> tuple[Tensor, Tensor]:
    """Float64 luma of both pictures without their border, checked to be comparable."""
    if a.shape != b.shape:
        raise ValueError(f"pictures of different shapes cannot be compared: {tuple(a.shape)} and {tuple(b.shape)}")
    height, width = a.shape[-2] - 2 * shave, a.shape[-1] - 2 * shave
    if shave < 0 or min(height, width) < smallest:
        raise ValueError(
            f"{a.shape[-2]}x{a.shape[-1]} shaved by {shave} leaves {max(height, 0)}x{max(width, 0)} pixels, "
            f"at least {smallest}x{smallest} are needed"
        )
    inside = (..., slice(shave, shave + height), slice(shave, shave + width))
    return rgb_to_y(a[inside].double()), rgb_to_y(b[inside].double())


def _gaussian(plane: Tensor) -> Tensor:
    """The window's weighted mean wherever it fits, (1,1,H,W) -> (1,1,H-10,W-10)."""
    offsets = torch.arange(SSIM_WINDOW, dtype=plane.dtype, device=plane.device) - SSIM_WINDOW // 2
    weights = torch.exp(-offsets.square() / (2 * SSIM_SIGMA**2))
    weights = weights / weights.sum()
    return F.conv2d(F.conv2d(plane, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
