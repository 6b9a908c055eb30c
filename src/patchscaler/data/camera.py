"""What a lens, a sensor and its software make of a scene: wide blur, little noise, now and then sharpening, light JPEG.

    blur  reduce  [blur]  noise  [sharpen]  [JPEG]

The blur is what `mild` and the second-order degradation lack: measured on real pairs of a wide and a long lens, all of
it from the long lens's picture to the wide one's (enlarged by bicubic interpolation) is a Gaussian of sigma 2.6 to 7.6
output pixels, of which the reduction and enlargement alone are 1.9, nearly without noise (docs/second-restorer.md). A
network that has seen blur only together with noise takes a soft clean picture for one that is meant to be soft.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from patchscaler.data.kernels import blur_kernel
from patchscaler.data.operations import filtered, jpeg
from patchscaler.errors import ConfigError

_REACH = 3  # sigmas of a Gaussian that its kernel holds on each side


@dataclass(frozen=True)
class CameraConfig:
    """Parameters of `photograph`. Ranges are (low, high); all but blur_sigma, drawn evenly in its logarithm, are of an
    even draw.

    blur_sigma           of the lens, in pixels of the sharp picture; anisotropy: the smaller sigma over the larger one
    heavy_tailed         share of generalised Gaussian kernels of a beta of `tail_beta` among all
    second_blur          probability of another, isotropic one after the reduction; second_sigma: in reduced pixels
    noise                probability; noise_sigma: of 255; smoothed: share of the noise that is correlated between
                         neighbours, as demosaicing and noise reduction leave it, by a Gaussian of `smooth_sigma`
    sharpen              probability of an unsharp mask of `sharpen_sigma` reduced pixels and `sharpen_amount`
    compressed           probability; jpeg_quality
    """

    blur_sigma: tuple[float, float] = (1.5, 7.0)
    anisotropy: tuple[float, float] = (0.7, 1.0)
    heavy_tailed: float = 0.3
    tail_beta: tuple[float, float] = (0.6, 1.2)
    second_blur: float = 0.15
    second_sigma: tuple[float, float] = (0.3, 1.0)
    noise: float = 0.6
    noise_sigma: tuple[float, float] = (0.0, 4.0)
    smoothed: float = 0.5
    smooth_sigma: tuple[float, float] = (0.4, 1.0)
    sharpen: float = 0.3
    sharpen_sigma: tuple[float, float] = (0.7, 1.5)
    sharpen_amount: tuple[float, float] = (0.3, 1.2)
    compressed: float = 0.5
    jpeg_quality: tuple[int, int] = (85, 98)

    def __post_init__(self) -> None:
        for name in ("heavy_tailed", "second_blur", "noise", "smoothed", "sharpen", "compressed"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        for name, lowest, highest in (
            ("blur_sigma", 0.01, 100),
            ("anisotropy", 0.01, 1),
            ("tail_beta", 0.1, 10),
            ("second_sigma", 0.01, 100),
            ("noise_sigma", 0, 255),
            ("smooth_sigma", 0.01, 100),
            ("sharpen_sigma", 0.01, 100),
            ("sharpen_amount", 0, 10),
            ("jpeg_quality", 1, 100),
        ):
            low, high = getattr(self, name)
            if not lowest <= low <= high <= highest:
                raise ConfigError(f"{name} must be (low, high) with {lowest} <= low <= high <= {highest}")


def photograph(
    image: Float[Tensor, "3 H W"], config: CameraConfig, generator: np.random.Generator, scale: int
) -> Float[Tensor, "3 h w"]:
    """Reduce one picture to 1/scale as a camera would have seen it; arguments and result as of `degradation.degrade`,
    the result not rounded yet."""
    x = filtered(image, _lens(config, generator))
    x = _reduced(x, scale, generator)
    if generator.random() < config.second_blur:
        x = filtered(x, _gaussian(generator.uniform(*config.second_sigma)))
    if generator.random() < config.noise:
        x = x + _noise(x.shape, config, generator)
    if generator.random() < config.sharpen:
        blurred = filtered(x, _gaussian(generator.uniform(*config.sharpen_sigma)))
        x = x + generator.uniform(*config.sharpen_amount) * (x - blurred)
    if generator.random() < config.compressed:
        x = jpeg(x, config.jpeg_quality, generator)
    return x


def _lens(config: CameraConfig, generator: np.random.Generator) -> Tensor:
    sigma = math.exp(generator.uniform(*np.log(config.blur_sigma)))
    other = sigma * generator.uniform(*config.anisotropy)
    angle = generator.uniform(-math.pi, math.pi)
    kind = "generalised aniso" if generator.random() < config.heavy_tailed else "aniso"
    beta = generator.uniform(*config.tail_beta)
    return blur_kernel(kind, _odd(sigma), sigma, other, angle, beta)


def _gaussian(sigma: float) -> Tensor:
    return blur_kernel("iso", _odd(sigma), sigma, sigma, 0.0, 1.0)


def _odd(sigma: float) -> int:
    """Side of the kernel."""
    return 2 * math.ceil(_REACH * sigma) + 1


def _reduced(x: Tensor, scale: int, generator: np.random.Generator) -> Tensor:
    """Mean of the cells, antialiased bicubic, or one pixel of each cell, at most one from its centre."""
    way = generator.choice(3)
    size = [side // scale for side in x.shape[-2:]]
    if way == 0:
        return F.avg_pool2d(x[None], scale)[0]
    if way == 1:
        return F.interpolate(x[None], size, mode="bicubic", align_corners=False, antialias=True)[0]
    middle = (scale - 1) // 2, scale // 2
    row, column = (middle[int(generator.integers(2))] for _ in range(2))
    return x[:, row::scale, column::scale]


def _noise(shape: torch.Size, config: CameraConfig, generator: np.random.Generator) -> Tensor:
    """Of one standard deviation, whether neighbours go along with each other or not."""
    sigma = generator.uniform(*config.noise_sigma) / 255
    noise = torch.from_numpy(generator.standard_normal(tuple(shape), dtype=np.float32))
    if generator.random() < config.smoothed:
        kernel = _gaussian(generator.uniform(*config.smooth_sigma))
        noise = filtered(noise, kernel) / kernel.square().sum().sqrt()
    return sigma * noise
