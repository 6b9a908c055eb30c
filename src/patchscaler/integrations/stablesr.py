"""As the paper runs StableSR: Stable Diffusion 2.1 base, no prompt, tiles of 64 latents overlapping by 32, from y_tau.

StableSR's own weights add a time-aware encoder to the U-Net, which no diffusers class holds; this is its sampling and
its tiling over the base model, so it shows what PGS saves, and not StableSR's quality.
"""

from dataclasses import replace
from typing import Any

from patchscaler.integrations import sd_img2img
from patchscaler.integrations.frame import Coarse, Sampling, Upscaled

PATCH, OVERLAP = 64, 32  # StableSR's, in latents; V = 64 in the paper


def upscale(
    pipe: Any,
    coarse: Coarse,
    sampling: Sampling | None = None,
    *,
    prompt: str = "",
    negative_prompt: str | None = None,
    guidance_scale: float = 1.0,
) -> Upscaled:
    """x4 in the manner of StableSR; `pipe`: StableDiffusionPipeline or StableDiffusionImg2ImgPipeline.

    Arguments as `sd_img2img.upscale`; patch and overlap are 64 and 32 unless `sampling` names others, and without
    guidance a tile costs one evaluation of the U-Net per step.
    """
    sampling = sampling or Sampling()
    patch = PATCH if sampling.patch is None else sampling.patch
    overlap = patch * OVERLAP // PATCH if sampling.overlap is None else sampling.overlap
    return sd_img2img.upscale(
        pipe,
        coarse,
        replace(sampling, patch=patch, overlap=overlap),
        prompt=prompt,
        negative_prompt=negative_prompt,
        guidance_scale=guidance_scale,
    )
