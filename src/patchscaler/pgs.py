"""Patch-adaptive Group Sampling for any diffusion model: the part of PatchScaler that others can pick up.

A coarse picture or its latents, a map of how sure one is of it, a denoiser and a diffusers scheduler go in; refined
latents come out, each patch having taken as many steps as it needs. No network of ours is imported here. PGS needs no
training (arXiv 2405.17158, Eq. 2, 6 and 7).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from patchscaler.diffusion.noise import place_noise
from patchscaler.diffusion.pgs import GroupConfig, assign_groups, sample_with_scheduler
from patchscaler.errors import ConfigError
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.tiles import PatchGrid, Tile, merge, pad_to_patch, raised_cosine_window, split

__all__ = [
    "GroupConfig",
    "PatchDenoiser",
    "Refined",
    "Size",
    "Tile",
    "pool_confidence",
    "refine",
]

# (x_t (b,c,V,V), t (b,) the scheduler's time of all of them, where they lie) -> prediction (b,c,V,V) of the scheduler's
# own prediction type. Conditioning is cropped with `place.of(plane)`.
PatchDenoiser = Callable[[Tensor, Tensor, list[Tile]], Tensor]


class Refined(NamedTuple):
    """What `refine` returns.

    latents      (1,c,h,w) float32, on the device of the coarse ones
    groups       (rows,cols) int64: 0 is the group that is surest, the last the hardest
    evaluations  (rows,cols) int64: how often the denoiser was asked for each patch, counted
    places       of the patches in the plane, row-major
    """

    latents: Tensor
    groups: Tensor
    evaluations: Tensor
    places: list[Tile]


def pool_confidence(confidence: Float[Tensor, "1 1 h w"], size: Size) -> Float[Tensor, "1 1 H W"]:
    """Confidence on another grid of the same picture: the mean of the cells that each new one touches."""
    return F.adaptive_avg_pool2d(confidence.float(), (size.height, size.width))


def refine(
    coarse: Float[Tensor, "1 c h w"],
    confidence: Float[Tensor, "1 1 a b"],
    denoiser: PatchDenoiser,
    scheduler: Any,
    config: GroupConfig | None = None,
    *,
    patch: int = 64,
    overlap: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
    noise: Float[Tensor, "1 c H W"] | None = None,
    from_noise: bool = False,
    generator: torch.Generator | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Refined:
    """Refine a coarse picture or its latents patch by patch, with the steps where the confidence is low.

    coarse       y0, normalised as the denoiser knows it
    confidence   in [0,1], on any grid of the same picture; pooled to that of `coarse`
    denoiser     (x_t, t, places) -> prediction, see `PatchDenoiser`; its rows must not influence each other
    scheduler    diffusers'; lends its config and stays as it is
    config       thresholds, start times and steps of any number of groups; None: the paper's three
    patch        V, side of a patch in latents (pixels for a picture)
    overlap      of neighbouring patches, in [0, patch); None: a quarter of a patch
    batch_size   patches per call of the denoiser; changes nothing beyond rounding
    seed         of the noise field, in [0, 2**63): each place keeps its noise whatever the patches are
    noise        instead of the field: a plane of the size of `coarse`, continued to one patch where it is smaller
    from_noise   groups that take all steps start from noise alone, see `sample_with_scheduler`
    generator    of schedulers that draw noise in their steps, see there
    on_step      called after each call of the denoiser with (patch-steps done, patch-steps in all)

    A plane smaller than a patch is continued to one by repeating its edge (`imaging.tiles.pad_to_patch`): places then
    reach beyond it, and conditioning has to be continued alike.
    Raises ConfigError for values out of range or that do not fit together.
    """
    config = config or GroupConfig()
    size, device = Size(*coarse.shape[-2:]), coarse.device
    pooled = pool_confidence(confidence.to(device), size)
    padded = pad_to_patch(coarse.float(), patch)
    overlap = patch // 4 if overlap is None else overlap
    window = raised_cosine_window(patch, overlap)
    grid = PatchGrid(Size(*padded.shape[-2:]), patch, patch - overlap)
    if noise is None:
        noise = place_noise(seed, coarse.shape[1], 0, 0, *grid.size)
    if noise.shape != padded.shape:
        raise ConfigError(f"noise of shape {tuple(noise.shape)} does not fit latents of shape {tuple(padded.shape)}")
    places = [Tile(top, top + patch, left, left + patch) for top in grid.rows for left in grid.cols]
    groups = assign_groups(split(pad_to_patch(pooled, patch), grid).mean(dim=(1, 2, 3)), config.gammas)
    evaluations = torch.zeros(grid.count, dtype=torch.int64)

    def denoise(x: Tensor, t: Tensor, index: Tensor) -> Tensor:
        numbers = index.tolist()
        evaluations[numbers] += 1
        return denoiser(x, t, [places[number] for number in numbers])

    refined = sample_with_scheduler(
        split(padded, grid),
        groups,
        split(noise.to(device), grid),
        denoise,
        scheduler,
        config,
        batch_size=batch_size,
        from_noise=from_noise,
        generator=generator,
        on_step=on_step,
    )
    latents = merge(refined, grid, window)[..., : size.height, : size.width]
    shape = len(grid.rows), len(grid.cols)
    return Refined(latents, groups.cpu().reshape(shape), evaluations.reshape(shape), places)
