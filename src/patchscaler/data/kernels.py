"""The blur kernels of the degradation as functions of their parameters; each is non-random, odd-sized and sums to 1.

With q = dᵀ Σ⁻¹ d for the offset d from the centre and Σ = R diag(σx², σy²) Rᵀ:

    Gaussian              exp(-q / 2)
    generalised Gaussian  exp(-q^β / 2)     β < 1 heavier tails, β > 1 flatter top
    plateau               1 / (1 + q^β)

and the ideal circular low-pass filter with cutoff ω, J₁ the Bessel function:

    sinc                  ω J₁(ω |d|) / (2π |d|)
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

KERNEL_KINDS = ("iso", "aniso", "generalised iso", "generalised aniso", "plateau iso", "plateau aniso")


def blur_kernel(
    kind: str, size: int, sigma_x: float, sigma_y: float, angle: float, beta: float
) -> Float[Tensor, "{size} {size}"]:
    """A float32 kernel of one of KERNEL_KINDS.

    size              odd, pixels
    sigma_x, sigma_y  along the rotated axes, pixels; the iso kinds use sigma_x only
    angle             radians from the x axis, ignored by the iso kinds
    beta              shape, ignored by the Gaussian kinds
    """
    family, _, _ = kind.rpartition(" ")
    y, x = _offsets(size)
    if kind.endswith("aniso"):
        along = math.cos(angle) * x + math.sin(angle) * y
        across = -math.sin(angle) * x + math.cos(angle) * y
        q = (along / sigma_x) ** 2 + (across / sigma_y) ** 2
    else:
        q = (x**2 + y**2) / sigma_x**2
    if family == "plateau":
        kernel = 1 / (1 + q**beta)
    elif family == "generalised":
        kernel = torch.exp(-(q**beta) / 2)
    else:
        kernel = torch.exp(-q / 2)
    return (kernel / kernel.sum()).float()


def sinc_kernel(size: int, cutoff: float) -> Float[Tensor, "{size} {size}"]:
    """A float32 circular low-pass kernel of odd size; cutoff in (0, π] radians a pixel."""
    y, x = _offsets(size)
    distance = torch.sqrt(x**2 + y**2)
    # J₁(t) / t -> 1/2 at the centre.
    distance[size // 2, size // 2] = 1.0
    kernel = cutoff * torch.special.bessel_j1(cutoff * distance) / (2 * math.pi * distance)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * math.pi)
    return (kernel / kernel.sum()).float()


def _offsets(size: int) -> tuple[Float[Tensor, "{size} 1"], Float[Tensor, "1 {size}"]]:
    """Rows and columns from the centre, in float64 because q^β spans many decades."""
    d = torch.arange(size, dtype=torch.float64) - size // 2
    return d[:, None], d[None, :]
