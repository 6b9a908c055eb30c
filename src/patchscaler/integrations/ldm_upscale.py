"""Latent diffusion's super-resolution (VQModel, no prompt) with PGS: latents on the small picture's pixels."""

from typing import Any

import torch
from torch import Tensor

from patchscaler.errors import ConfigError
from patchscaler.imaging.geometry import SCALE
from patchscaler.imaging.tiles import Tile, pad_to
from patchscaler.integrations.frame import Coarse, Sampling, Upscaled, finish, plan_plane, refine_on
from patchscaler.integrations.noise import NoiseSource
from patchscaler.models import borrowed


@torch.no_grad()
def upscale(pipe: Any, coarse: Coarse, sampling: Sampling | None = None) -> Upscaled:
    """x4 by `LDMSuperResolutionPipeline`.

    coarse  a `Coarse`; its small picture is cut into tiles beside the latents

    Starts as `sd_upscale` does. With one tile, one group of tau = T, the same generator and `colour_fix=False` the
    result is the pipeline's own.
    Raises ConfigError, also for schedulers that scale the network's input (Euler, LMS): the pipeline scales the small
    picture along with the latents there, which no trained model expects.
    """
    sampling = sampling or Sampling()
    device = pipe._execution_device
    plane = plan_plane(pipe, pipe.vqvae, coarse, sampling, SCALE)
    if float(pipe.scheduler.init_noise_sigma) != 1:
        raise ConfigError(f"{type(pipe.scheduler).__name__} scales the network's input; use DDIM, DPM-Solver or PNDM")
    noise = NoiseSource(sampling.seed, sampling.generator)

    low = borrowed.to_signed(pad_to(coarse.low, plane.size).to(device), pipe.unet)
    latents = borrowed.encode(pipe.vqvae, pad_to(coarse.pixels, plane.pixels).to(device), noise.draw)
    eps = noise.draw(latents.shape[1], *plane.size, device, low.dtype)

    def denoise(x: Tensor, t: Tensor, places: list[Tile]) -> Tensor:
        beside = torch.cat([place.of(low) for place in places])
        return pipe.unet(torch.cat([x.to(beside.dtype), beside], dim=1), t[0]).sample

    refined = refine_on(plane, latents, coarse, denoise, pipe.scheduler, eps, sampling, from_noise=True)
    return finish(pipe, pipe.vqvae, plane, coarse, refined, sampling.colour_fix)
