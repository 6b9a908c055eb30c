"""Stable Diffusion over the coarse picture, tiled, each tile with its own strength: img2img with PGS.

A tile of group g begins at tau_g, which is what diffusers calls strength tau_g / T, and takes N_g steps: the last N_g
of the scheduler's grid of N_g T / tau_g steps, exactly as `StableDiffusionImg2ImgPipeline` would with that strength.
"""

from typing import Any

import torch

from patchscaler.imaging.tiles import Tile, pad_to
from patchscaler.integrations.frame import Coarse, Sampling, Upscaled, finish, plan_plane, refine_on
from patchscaler.integrations.noise import NoiseSource
from patchscaler.integrations.text_unet import TextUNet
from patchscaler.models import borrowed


@torch.no_grad()
def upscale(
    pipe: Any,
    coarse: Coarse,
    sampling: Sampling | None = None,
    *,
    prompt: str = "",
    negative_prompt: str | None = None,
    guidance_scale: float = 7.5,
) -> Upscaled:
    """x4 by Stable Diffusion.

    pipe     StableDiffusionImg2ImgPipeline or StableDiffusionPipeline: both have what is needed
    coarse   a `Coarse`
    prompt, negative_prompt, guidance_scale   as in the pipeline; one prompt for all tiles

    With one tile, one group, the same generator and `colour_fix=False` the result is the pipeline's own.
    Raises ConfigError.
    """
    sampling = sampling or Sampling()
    device = pipe._execution_device
    plane = plan_plane(pipe, pipe.vae, coarse, sampling)
    noise = NoiseSource(sampling.seed, sampling.generator)
    network = TextUNet(pipe, prompt, negative_prompt, guidance_scale)

    # Drawn in the order of the pipeline: the encoder's noise, then that of y_tau.
    latents = borrowed.encode(pipe.vae, pad_to(coarse.pixels, plane.pixels).to(device), noise.draw)
    eps = noise.draw(latents.shape[1], *plane.size, device, network.dtype)

    def denoise(x: torch.Tensor, t: torch.Tensor, places: list[Tile]) -> torch.Tensor:
        return network(x, t)

    refined = refine_on(plane, latents, coarse, denoise, pipe.scheduler, eps, sampling)
    return finish(pipe, pipe.vae, plane, coarse, refined, sampling.colour_fix)
