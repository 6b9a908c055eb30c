"""Autoencoders of other pipelines, of any stride: pixels <-> the latents that their denoisers know.

`latents.py` serves our own model, whose latents lie 8 pixels apart. Here the arithmetic is that of diffusers' pipelines
for Stable Diffusion (AutoencoderKL) and latent diffusion (VQModel), so that PGS over them begins and ends as they do.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

# (channels, height, width, device, dtype) -> standard normal (1,channels,height,width), as `NoiseSource.draw`
Draw = Callable[[int, int, int, torch.device, torch.dtype], Tensor]


def encode(autoencoder: Any, pixels: Float[Tensor, "1 3 height width"], draw: Draw) -> Float[Tensor, "1 c h w"]:
    """RGB in [0,1], sides multiples of the stride -> latents. AutoencoderKL's are drawn from its distribution."""
    answer = autoencoder.encode(to_signed(pixels, autoencoder))
    if hasattr(answer, "latents"):  # VQModel, whose latents are taken as they are
        return answer.latents
    spread = answer.latent_dist
    _, channels, height, width = spread.mean.shape
    drawn = spread.mean + spread.std * draw(channels, height, width, spread.mean.device, spread.mean.dtype)
    return float(autoencoder.config["scaling_factor"]) * drawn


def decode(autoencoder: Any, latents: Float[Tensor, "1 c h w"]) -> Float[Tensor, "1 3 height width"]:
    """Latents -> RGB in about [-1,1], the autoencoder's own precision.

    An AutoencoderKL that overflows in half precision (`force_upcast`) decodes in float32.
    """
    if hasattr(autoencoder, "quantize"):  # VQModel
        return autoencoder.decode(latents.to(autoencoder.dtype)).sample
    upcast = autoencoder.dtype == torch.float16 and autoencoder.config["force_upcast"]
    if upcast:
        autoencoder.to(dtype=torch.float32)
    try:
        scaled = latents.to(autoencoder.dtype) / float(autoencoder.config["scaling_factor"])
        return autoencoder.decode(scaled, return_dict=False)[0]
    finally:
        if upcast:
            autoencoder.to(dtype=torch.float16)


def to_signed(pixels: Float[Tensor, "1 3 height width"], network: Any) -> Float[Tensor, "1 3 height width"]:
    """RGB in [0,1] -> [-1,1] in the network's precision."""
    return (2.0 * pixels - 1.0).to(network.dtype)


def from_signed(pixels: Float[Tensor, "1 3 height width"]) -> Float[Tensor, "1 3 height width"]:
    """About [-1,1] -> RGB in [0,1], float32."""
    return (pixels / 2 + 0.5).clamp(0, 1).float()
