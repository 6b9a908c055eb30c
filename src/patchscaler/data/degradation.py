"""Second-order degradation: what a sharp picture goes through before a user asks to enlarge it.

Source: Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data", 2021, section 3
and the values of its published training configuration. A picture is blurred, resized, made noisy and compressed, twice:

    first order   blur  resize  noise  JPEG
    second order  blur  resize  noise  { to the output size, sinc } and JPEG in random order

Choice: JPEG is Pillow's, with its chroma subsampling and integer tables, instead of a differentiable imitation.
Choice: the last order's resize is relative to the output size, also when it is the only order, so that "keep" then
means noise and JPEG on the small picture.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from patchscaler.data.camera import CameraConfig, photograph
from patchscaler.data.kernels import KERNEL_KINDS, blur_kernel, sinc_kernel
from patchscaler.data.operations import filtered, jpeg
from patchscaler.errors import ConfigError

RESIZE_MODES = ("area", "bilinear", "bicubic", "bicubic antialias")
GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma
DEGRADATION_STREAM = (1,)  # keeps the draws independent of a crop that is drawn with the same (seed, index)


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{name} must lie in [0, 1], got {value}")


def _check_distribution(name: str, values: tuple[float, ...], count: int) -> None:
    if len(values) != count or not all(0 <= v <= 1 for v in values) or abs(sum(values) - 1) > 1e-6:
        raise ConfigError(f"{name} must be {count} probabilities that sum to 1, got {values} with sum {sum(values):g}")


def _check_range(name: str, value: tuple[float, float] | tuple[int, int], lowest: float, highest: float) -> None:
    if len(value) != 2 or not lowest <= value[0] <= value[1] <= highest:
        raise ConfigError(f"{name} must be (low, high) with {lowest:g} <= low <= high <= {highest:g}, got {value}")


def _check_sizes(name: str, value: tuple[int, int]) -> None:
    _check_range(name, value, 1.0, 101.0)
    if value[0] % 2 == 0 or value[1] % 2 == 0:
        raise ConfigError(f"{name} must be odd, got {value}")


@dataclass(frozen=True)
class OrderConfig:
    """One order of the degradation; the defaults are Real-ESRGAN's first. Ranges are (low, high) of a uniform draw."""

    blur_probability: float = 1.0
    kernel_size: tuple[int, int] = (7, 21)  # odd, both ends included
    kernel_probabilities: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)  # in the order of KERNEL_KINDS
    sinc_probability: float = 0.1  # a sinc kernel instead of one of KERNEL_KINDS
    blur_sigma: tuple[float, float] = (0.2, 3.0)  # pixels
    generalised_beta: tuple[float, float] = (0.5, 4.0)
    plateau_beta: tuple[float, float] = (1.0, 2.0)

    resize_probabilities: tuple[float, float, float] = (0.2, 0.7, 0.1)  # up, down, keep
    resize_scale: tuple[float, float] = (0.15, 1.5)  # down from the first to 1, up from 1 to the second
    resize_modes: tuple[str, ...] = ("area", "bilinear", "bicubic")  # equally likely

    gaussian_probability: float = 0.5  # otherwise Poisson
    gaussian_sigma: tuple[float, float] = (1.0, 30.0)  # of 255
    poisson_scale: tuple[float, float] = (0.05, 3.0)
    grey_probability: float = 0.4  # the same noise in all channels

    jpeg_quality: tuple[int, int] | None = (30, 95)  # None: not compressed

    def __post_init__(self) -> None:
        for name in ("blur_probability", "sinc_probability", "gaussian_probability", "grey_probability"):
            _check_probability(name, getattr(self, name))
        _check_distribution("kernel_probabilities", self.kernel_probabilities, len(KERNEL_KINDS))
        _check_distribution("resize_probabilities", self.resize_probabilities, 3)
        _check_sizes("kernel_size", self.kernel_size)
        _check_range("blur_sigma", self.blur_sigma, 0.01, 100.0)
        _check_range("generalised_beta", self.generalised_beta, 0.1, 10.0)
        _check_range("plateau_beta", self.plateau_beta, 0.1, 10.0)
        _check_range("resize_scale", self.resize_scale, 0.01, 10.0)
        if not self.resize_scale[0] <= 1.0 <= self.resize_scale[1]:
            raise ConfigError(f"resize_scale must span 1, got {self.resize_scale}")
        if not self.resize_modes or not set(self.resize_modes) <= set(RESIZE_MODES):
            raise ConfigError(f"resize_modes must be some of {RESIZE_MODES}, got {self.resize_modes}")
        _check_range("gaussian_sigma", self.gaussian_sigma, 0.0, 255.0)
        _check_range("poisson_scale", self.poisson_scale, 0.0, 100.0)
        if self.jpeg_quality is not None:
            _check_range("jpeg_quality", self.jpeg_quality, 1.0, 100.0)


FIRST_ORDER = OrderConfig()
SECOND_ORDER = OrderConfig(
    blur_probability=0.8,
    blur_sigma=(0.2, 1.5),
    resize_probabilities=(0.3, 0.4, 0.3),
    resize_scale=(0.3, 1.2),
    gaussian_sigma=(1.0, 25.0),
    poisson_scale=(0.05, 2.5),
)
PLAIN_BICUBIC = OrderConfig(
    blur_probability=0.0,
    resize_probabilities=(0.0, 0.0, 1.0),
    resize_modes=("bicubic antialias",),
    gaussian_probability=1.0,
    gaussian_sigma=(0.0, 0.0),
    jpeg_quality=None,
)


@dataclass(frozen=True)
class DegradationConfig:
    """All parameters of `degrade`; the defaults are Real-ESRGAN's published ones."""

    first: OrderConfig = FIRST_ORDER
    second: OrderConfig | None = SECOND_ORDER
    second_probability: float = 1.0  # of its blur, resize and noise; its JPEG is always there
    final_sinc_probability: float = 0.8
    final_sinc_size: tuple[int, int] = (7, 21)
    final_sinc_cutoff: tuple[float, float] = (np.pi / 3, np.pi)  # radians a pixel

    def __post_init__(self) -> None:
        for name in ("final_sinc_probability", "second_probability"):
            _check_probability(name, getattr(self, name))
        _check_sizes("final_sinc_size", self.final_sinc_size)
        _check_range("final_sinc_cutoff", self.final_sinc_cutoff, 0.1, np.pi)

    @classmethod
    def real_esrgan(cls) -> "DegradationConfig":
        """Both orders as published: old, compressed, many times re-saved pictures."""
        return cls()

    @classmethod
    def mild(cls) -> "DegradationConfig":
        """A decent camera or website: one light blur, antialiased x1/scale, then faint noise and a good JPEG."""
        order = OrderConfig(
            blur_probability=0.8,
            sinc_probability=0.0,
            blur_sigma=(0.2, 1.2),
            resize_probabilities=(0.0, 0.0, 1.0),
            resize_modes=("bicubic antialias",),
            gaussian_probability=1.0,
            gaussian_sigma=(0.0, 6.0),
            jpeg_quality=(70, 95),
        )
        return cls(first=order, second=None, final_sinc_probability=0.0)

    @classmethod
    def resshift(cls) -> "DegradationConfig":
        """Yue et al., "ResShift", 2023: Real-ESRGAN's model with the milder values of its published test set."""
        first = OrderConfig(
            kernel_size=(3, 11),
            kernel_probabilities=(0.6, 0.4, 0.0, 0.0, 0.0, 0.0),
            blur_sigma=(0.2, 0.8),
            resize_scale=(0.5, 1.5),
            gaussian_sigma=(1.0, 15.0),
            poisson_scale=(0.05, 0.3),
            jpeg_quality=(70, 95),
        )
        return cls(first, OrderConfig(jpeg_quality=(80, 100)), 0.0, final_sinc_probability=0.2, final_sinc_size=(3, 5))

    @classmethod
    def bicubic(cls) -> "DegradationConfig":
        """Antialiased bicubic (Pillow's and Matlab's) and nothing else: the classical benchmark."""
        return cls(first=PLAIN_BICUBIC, second=None, final_sinc_probability=0.0)


@torch.no_grad()
@torch.autocast("cpu", enabled=False)  # a trainer's autocast would blur in bfloat16
def degrade(
    image: Float[Tensor, "3 H W"],
    config: DegradationConfig | CameraConfig,
    generator: np.random.Generator,
    scale: int = 4,
) -> Float[Tensor, "3 h w"]:
    """Degrade one picture to 1/scale of its size: a function of the arguments and nothing else.

    image      float32 in [0, 1] on the CPU, RGB, H and W multiples of scale
    generator  the only source of randomness; it is advanced
    returns    float32 in [0, 1], h = H / scale, w = W / scale, rounded to 8-bit levels

    Raises ValueError where H or W is no positive multiple of scale: crop the picture first.
    """
    height, width = image.shape[-2:]
    if scale < 1 or min(height, width) < 1 or height % scale or width % scale:
        raise ValueError(f"crop the picture to a multiple of scale {scale}: got {height} x {width}")
    if isinstance(config, CameraConfig):
        x = photograph(image, config, generator, scale)
    else:
        x = _degrade_twice(image, config, generator, (height // scale, width // scale))
    return (x.clamp(0, 1) * 255).round() / 255


def _degrade_twice(
    image: Tensor, config: DegradationConfig, generator: np.random.Generator, target: tuple[int, int]
) -> Tensor:
    """Both orders, or the one that there is, to the size `target` (height, width)."""
    height, width = image.shape[-2:]
    x = image
    last = config.first
    if config.second is not None:
        x = _blur_resize_noise(x, config.first, (height, width), generator)
        x = jpeg(x, config.first.jpeg_quality, generator)
        last = config.second
    if config.second is None or config.second_probability == 1 or generator.random() < config.second_probability:
        x = _blur_resize_noise(x, last, target, generator)
    if generator.random() < 0.5:
        x = _finish(x, config, last, target, generator)
        x = jpeg(x, last.jpeg_quality, generator)
    else:
        x = jpeg(x, last.jpeg_quality, generator)
        x = _finish(x, config, last, target, generator)
    return x


def degrade_at(
    image: Float[Tensor, "3 H W"], config: DegradationConfig | CameraConfig, seed: int, index: int, scale: int = 4
) -> Float[Tensor, "3 h w"]:
    """`degrade` with the generator that belongs to (seed, index), both >= 0: the same for any order or worker count."""
    sequence = np.random.SeedSequence([seed, index], spawn_key=DEGRADATION_STREAM)
    return degrade(image, config, np.random.default_rng(sequence), scale)


def _blur_resize_noise(x: Tensor, order: OrderConfig, base: tuple[int, int], generator: np.random.Generator) -> Tensor:
    """Blur, resize to a random multiple of base (height, width), add noise."""
    if generator.random() < order.blur_probability:
        x = filtered(x, _draw_kernel(order, generator))
    direction = generator.choice(3, p=order.resize_probabilities)
    low, high = order.resize_scale
    factor = (generator.uniform(1, high), generator.uniform(low, 1), 1.0)[direction]
    size = max(1, round(base[0] * factor)), max(1, round(base[1] * factor))
    x = _resize(x, size, order, generator)
    if generator.random() < order.gaussian_probability:
        x = _gaussian_noise(x, order, generator)
    else:
        x = _poisson_noise(x, order, generator)
    return x.clamp(0, 1)


def _finish(
    x: Tensor, config: DegradationConfig, order: OrderConfig, target: tuple[int, int], generator: np.random.Generator
) -> Tensor:
    """To the output size, then the final sinc: the ringing of a sharpened or badly resampled picture."""
    x = _resize(x, target, order, generator)
    if generator.random() < config.final_sinc_probability:
        size = _draw_odd(config.final_sinc_size, generator)
        x = filtered(x, sinc_kernel(size, generator.uniform(*config.final_sinc_cutoff)))
    return x


def _draw_odd(sizes: tuple[int, int], generator: np.random.Generator) -> int:
    return sizes[0] + 2 * int(generator.integers((sizes[1] - sizes[0]) // 2 + 1))


def _draw_kernel(order: OrderConfig, generator: np.random.Generator) -> Tensor:
    size = _draw_odd(order.kernel_size, generator)
    if generator.random() < order.sinc_probability:
        # Real-ESRGAN: a small window cannot hold a low cutoff.
        return sinc_kernel(size, generator.uniform(np.pi / 3 if size < 13 else np.pi / 5, np.pi))
    kind = KERNEL_KINDS[generator.choice(len(KERNEL_KINDS), p=order.kernel_probabilities)]
    sigma_x, sigma_y = generator.uniform(*order.blur_sigma, size=2)
    angle = generator.uniform(-np.pi, np.pi)
    low, high = order.plateau_beta if kind.startswith("plateau") else order.generalised_beta
    # Below 1 and above 1 are equally likely, however unequal the two parts of the range.
    middle = min(max(1.0, low), high)
    beta = generator.uniform(low, middle) if generator.random() < 0.5 else generator.uniform(middle, high)
    return blur_kernel(kind, size, sigma_x, sigma_y, angle, beta)


def _resize(x: Tensor, size: tuple[int, int], order: OrderConfig, generator: np.random.Generator) -> Tensor:
    mode = order.resize_modes[generator.integers(len(order.resize_modes))]
    if x.shape[-2:] == size:
        return x
    if mode == "area":
        return F.interpolate(x[None], size, mode="area")[0]
    kind, _, antialias = mode.partition(" ")
    return F.interpolate(x[None], size, mode=kind, align_corners=False, antialias=bool(antialias))[0]


def _gaussian_noise(x: Tensor, order: OrderConfig, generator: np.random.Generator) -> Tensor:
    sigma = generator.uniform(*order.gaussian_sigma) / 255
    channels = 1 if generator.random() < order.grey_probability else 3
    noise = generator.standard_normal((channels, *x.shape[-2:]), dtype=np.float32)
    return x + sigma * torch.from_numpy(noise)


def _poisson_noise(x: Tensor, order: OrderConfig, generator: np.random.Generator) -> Tensor:
    """Shot noise of a sensor whose white is as many photons as the picture has levels, rounded up to a power of two."""
    strength = generator.uniform(*order.poisson_scale)
    light = (x.clamp(0, 1) * 255).round() / 255
    if generator.random() < order.grey_probability:
        light = torch.einsum("chw,c->hw", light, torch.tensor(GREY_WEIGHTS))[None]
    levels = int(torch.bincount((light * 255).round().long().flatten(), minlength=256).count_nonzero())
    photons = 2.0 ** np.ceil(np.log2(levels))
    counts = torch.from_numpy(generator.poisson(light.numpy() * photons).astype(np.float32))
    return x + strength * (counts / photons - light)
