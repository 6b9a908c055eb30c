"""Pixels <-> normalised latents, whichever autoencoder: the only place that knows how the two kinds differ."""

import itertools
import math
from collections.abc import Callable

import torch
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float
from torch import Tensor

from patchscaler.errors import ConfigError
from patchscaler.models.autoencoder import STRIDE, DctAutoencoder

# Choice: halo of AutoencoderKL in latents, what the convolutions of Stable Diffusion's decoder reach (17.25). No halo
# is exact there, since its GroupNorm and its middle attention see the whole input: faint brightness steps remain.
KL_REACH = 18


def encode_pixels(autoencoder: ModelMixin, pixels: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n c h w"]:
    """RGB in [0,1], sides multiples of 8 (ValueError) -> normalised latents at h = height/8, float32.

    autoencoder  DctAutoencoder or diffusers' AutoencoderKL (ConfigError), of which the distribution's mode is taken
    """
    if isinstance(autoencoder, DctAutoencoder):
        return autoencoder.encode(pixels)
    scale, shift = _kl_scale_and_shift(autoencoder)
    if pixels.shape[-2] % STRIDE or pixels.shape[-1] % STRIDE:
        raise ValueError(f"sides {tuple(pixels.shape[-2:])} must be multiples of {STRIDE}")
    moments = autoencoder.encode((2 * pixels - 1).to(autoencoder.dtype))
    return (moments.latent_dist.mode().float() - shift) * scale


def decode_latents(autoencoder: ModelMixin, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 height width"]:
    """Normalised latents -> RGB about [0,1] (not clamped), height = 8 h, float32; autoencoder as in `encode_pixels`."""
    if isinstance(autoencoder, DctAutoencoder):
        return autoencoder.decode(latents)
    scale, shift = _kl_scale_and_shift(autoencoder)
    sample = autoencoder.decode((latents.float() / scale + shift).to(autoencoder.dtype)).sample
    return (sample.float() + 1) / 2


def latent_channels(autoencoder: ModelMixin) -> int:
    """c."""
    if isinstance(autoencoder, DctAutoencoder):
        return autoencoder.latent_channels
    _kl_scale_and_shift(autoencoder)
    return int(autoencoder.config["latent_channels"])


def decode_reach(autoencoder: ModelMixin) -> int:
    """Halo in latents for tiled decoding: exact for DctAutoencoder; for AutoencoderKL see KL_REACH."""
    if isinstance(autoencoder, DctAutoencoder):
        return autoencoder.reach
    _kl_scale_and_shift(autoencoder)
    return KL_REACH


@torch.no_grad()
def decode_tiled(
    autoencoder: ModelMixin,
    latents: Float[Tensor, "n c h w"],
    tile: int = 64,
    on_tile: Callable[[int, int], None] | None = None,
) -> Float[Tensor, "n 3 height width"]:
    """`decode_latents` tile by tile, without gradients: memory beyond the result is bounded by `tile`.

    latents      on the autoencoder's device, and so is the result
    tile         largest tile side in latents, without the halo of `decode_reach` on each side
    on_tile      called as on_tile(done, total) after each tile
    returns      float32; for DctAutoencoder equal to the whole decode, up to rounding

    Raises ConfigError for tile < 1, ValueError for empty latents.
    """
    if tile < 1:
        raise ConfigError(f"tile {tile} must be at least 1 latent")
    n, _, height, width = latents.shape
    if not (height and width):
        raise ValueError(f"latents of size {(height, width)} are empty")
    reach = decode_reach(autoencoder)
    pixels = torch.empty(n, 3, STRIDE * height, STRIDE * width, dtype=torch.float32, device=latents.device)
    spans = list(itertools.product(_spans(height, tile), _spans(width, tile)))
    for done, ((top, bottom), (left, right)) in enumerate(spans, start=1):
        first_row, first_col = max(top - reach, 0), max(left - reach, 0)
        crop = latents[..., first_row : bottom + reach, first_col : right + reach]
        decoded = decode_latents(autoencoder, crop)
        pixels[..., STRIDE * top : STRIDE * bottom, STRIDE * left : STRIDE * right] = decoded[
            ...,
            STRIDE * (top - first_row) : STRIDE * (bottom - first_row),
            STRIDE * (left - first_col) : STRIDE * (right - first_col),
        ]
        if on_tile is not None:
            on_tile(done, len(spans))
    return pixels


def _spans(length: int, tile: int) -> list[tuple[int, int]]:
    """[0, length) in the fewest spans of at most `tile`, about equally long: a thin last one would be mostly halo."""
    count = math.ceil(length / tile)
    return [(index * length // count, (index + 1) * length // count) for index in range(count)]


def _kl_scale_and_shift(autoencoder: ModelMixin) -> tuple[float, float]:
    """Normalised latents = (latents - shift) * scale. Raises ConfigError unless a stride-8 AutoencoderKL."""
    # Imported here, because it takes more than a second and the `tiny` preset never needs it.
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    if not isinstance(autoencoder, AutoencoderKL):
        raise ConfigError(f"a {type(autoencoder).__name__} is no autoencoder: use DctAutoencoder or AutoencoderKL")
    stride = 2 ** (len(autoencoder.config["block_out_channels"]) - 1)
    if stride != STRIDE:
        raise ConfigError(f"this AutoencoderKL has stride {stride}, but latents lie {STRIDE} pixels apart")
    return float(autoencoder.config["scaling_factor"]), float(autoencoder.config["shift_factor"] or 0.0)
