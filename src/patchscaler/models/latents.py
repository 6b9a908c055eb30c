"""Pixels <-> normalised latents, whichever autoencoder: the only place that knows how the two kinds differ."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from patchscaler.errors import ConfigError
from patchscaler.imaging.geometry import SCALE, STRIDE
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.models.base import ModelMixin

# Choice: halo of AutoencoderKL in latents, what the convolutions of Stable Diffusion's decoder reach (17.25). No halo
# is exact there, since its GroupNorm and its middle attention see the whole input: faint brightness steps remain.
KL_REACH = 18
# Latents, halo included, that are decoded at once: about 0.3 GiB with DctAutoencoder, about 1 GiB with AutoencoderKL.
DCT_AREA = 2**16
KL_AREA = 100 * 100


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


def restorer_input(restorer: Any, autoencoder: ModelMixin | None, pixels: Float[Tensor, "n 3 height width"]) -> Tensor:
    """What a restorer takes of LR RGB in [0,1], even sides: the pixels, or the latents of the picture enlarged x4.

    restorer  ConvRestorer or SwinRestorer; its `input_kind` decides, and whether an autoencoder is needed
    """
    if restorer.input_kind == "pixels":
        return pixels.contiguous(memory_format=torch.channels_last)
    assert autoencoder is not None
    return enlarged_latents(autoencoder, pixels)


def enlarged_latents(autoencoder: ModelMixin, pixels: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n c h w"]:
    """Latents of the bicubic enlargement x4 of LR RGB in [0,1], even sides."""
    size = SCALE * pixels.shape[-2], SCALE * pixels.shape[-1]
    large = F.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 1)
    return encode_pixels(autoencoder, large)


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
