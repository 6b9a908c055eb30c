"""The way of one picture's latents through prompt and PGS, as at inference, for the validation of training runs."""

import torch
from torch import Tensor

from patchscaler.diffusion.noise import place_noise
from patchscaler.diffusion.pgs import GroupConfig, assign_groups, sample
from patchscaler.diffusion.schedule import make_scheduler
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.tiles import PatchGrid, merge, pad_to_patch, raised_cosine_window, split
from patchscaler.models.patch_dit import PatchDiT, TextureCache
from patchscaler.models.restorer import Restoration, confidence_from
from patchscaler.models.texture import ReferenceTextureMemory, TextureClassifier, TextureEncoder

_OVERLAP = 4  # the pipeline's


def texture_prompt(
    classifier: TextureClassifier, memory: ReferenceTextureMemory, coarse: Tensor, top_k: int
) -> tuple[Tensor, Tensor]:
    """Algorithm 1: textures (n,K,c,V,V) and similarities (n,K) for coarse patches (n,c,V,V)."""
    found = memory.retrieve(classifier(coarse), top_k)
    return memory.read(found.places), found.similarities


@torch.no_grad()
def sample_picture(
    patch_dit: PatchDiT,
    encoder: TextureEncoder,
    classifier: TextureClassifier,
    memory: ReferenceTextureMemory,
    restored: Restoration,
    eta: float,
    config: GroupConfig,
    seed: int,
) -> Tensor:
    """Refined latents (1,c,h,w) of a restored picture."""
    height, width = restored.latents.shape[-2:]
    patch = int(patch_dit.config["sample_size"])
    coarse, log_error = pad_to_patch(restored.latents, patch), pad_to_patch(restored.log_error, patch)
    grid = PatchGrid(Size(*coarse.shape[-2:]), patch, patch - _OVERLAP)
    patches, errors = split(coarse, grid), split(log_error, grid)
    noise = split(place_noise(seed, coarse.shape[1], 0, 0, *coarse.shape[-2:]), grid)
    groups = assign_groups(confidence_from(errors, eta).mean(dim=(1, 2, 3)), config.gammas)
    prompt = texture_prompt(classifier, memory, patches, int(encoder.config["top_k"]))
    texture = patch_dit.texture_cache(encoder(*prompt))

    def denoise(x_t: Tensor, t: Tensor, index: Tensor) -> Tensor:
        chosen = TextureCache(texture.keys[index], texture.values[index])
        return patch_dit(x_t, t, patches[index], errors[index], chosen)

    kind = patch_dit.config["prediction_type"]
    refined = sample(patches, groups, noise, denoise, make_scheduler().alphas_cumprod, config, prediction_type=kind)
    return merge(refined, grid, raised_cosine_window(patch, _OVERLAP))[..., :height, :width]
