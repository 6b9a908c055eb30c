"""Stable Diffusion's x4 upscaler with PGS: its latents lie on the small picture's pixels, which it also sees."""

from typing import Any

import torch
from torch import Tensor

from patchscaler.errors import ConfigError
from patchscaler.imaging.geometry import SCALE
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
    guidance_scale: float = 9.0,
    noise_level: int = 20,
) -> Upscaled:
    """x4 by `StableDiffusionUpscalePipeline`.

    coarse       a `Coarse`; its small picture, with noise of `noise_level`, is cut into tiles
                 beside the latents
    noise_level, prompt, negative_prompt, guidance_scale   as in the pipeline

    Hard tiles with all steps start from noise alone, as in the pipeline; the others from the coarse picture's latents
    at tau. With one tile, one group of tau = T, the same generator and `colour_fix=False` the result is the pipeline's
    own. The pipeline's watermark is not drawn. Raises ConfigError.
    """
    sampling = sampling or Sampling()
    if not 0 <= noise_level <= pipe.config["max_noise_level"]:
        raise ConfigError(f"noise_level {noise_level} must lie in [0, {pipe.config['max_noise_level']}]")
    device = pipe._execution_device
    plane = plan_plane(pipe, pipe.vae, coarse, sampling, SCALE)
    noise = NoiseSource(sampling.seed, sampling.generator)
    network = TextUNet(pipe, prompt, negative_prompt, guidance_scale)

    # Drawn in the order of the pipeline: the small picture's noise, then the latents'; it encodes nothing.
    low = borrowed.to_signed(pad_to(coarse.low, plane.size).to(device), pipe.unet)
    level = torch.tensor([noise_level], dtype=torch.long, device=device)
    low = pipe.low_res_scheduler.add_noise(low, noise.draw(3, *plane.size, device, low.dtype), level)
    eps = noise.draw(int(pipe.vae.config["latent_channels"]), *plane.size, device, network.dtype)
    latents = borrowed.encode(pipe.vae, pad_to(coarse.pixels, plane.pixels).to(device), noise.draw)

    def denoise(x: Tensor, t: Tensor, places: list[Tile]) -> Tensor:
        return network(x, t, beside=torch.cat([place.of(low) for place in places]), labels=level)

    refined = refine_on(plane, latents, coarse, denoise, pipe.scheduler, eps, sampling, from_noise=True)
    return finish(pipe, pipe.vae, plane, coarse, refined, sampling.colour_fix)
