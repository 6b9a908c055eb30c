"""Patch-adaptive Group Sampling for any diffusion model: the part of PatchScaler that others can pick up.

A coarse picture or its latents, a map of how sure one is of it, a denoiser and a diffusers scheduler go in; refined
latents come out, each patch having taken as many steps as it needs. No network of ours is imported here. PGS needs no
training (arXiv 2405.17158, Eq. 2, 6 and 7).
"""

from collections.abc import Callable
from inspect import signature
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from patchscaler.errors import ConfigError
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.tiles import PatchGrid, Tile, merge, pad_to_patch, raised_cosine_window, split
from patchscaler.pgs.groups import GroupConfig, assign_groups, plan
from patchscaler.pgs.noise import place_noise

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
    padded = pad_to_patch(coarse.float().cpu().numpy(), patch)
    overlap = patch // 4 if overlap is None else overlap
    window = raised_cosine_window(patch, overlap)
    grid = PatchGrid(Size(*padded.shape[-2:]), patch, patch - overlap)
    if noise is None:
        noise = torch.from_numpy(place_noise(seed, coarse.shape[1], 0, 0, *grid.size))
    if tuple(noise.shape) != padded.shape:
        raise ConfigError(f"noise of shape {tuple(noise.shape)} does not fit latents of shape {padded.shape}")
    places = [Tile(top, top + patch, left, left + patch) for top in grid.rows for left in grid.cols]
    confidences = split(pad_to_patch(pooled.cpu().numpy(), patch), grid).mean(axis=(1, 2, 3))
    groups = torch.from_numpy(assign_groups(confidences, config.gammas))
    evaluations = torch.zeros(grid.count, dtype=torch.int64)

    def denoise(x: Tensor, t: Tensor, index: Tensor) -> Tensor:
        numbers = index.tolist()
        evaluations[numbers] += 1
        return denoiser(x, t, [places[number] for number in numbers])

    refined = sample_with_scheduler(
        torch.from_numpy(split(padded, grid)).to(device),
        groups,
        torch.from_numpy(split(noise.float().cpu().numpy(), grid)).to(device),
        denoise,
        scheduler,
        config,
        batch_size=batch_size,
        from_noise=from_noise,
        generator=generator,
        on_step=on_step,
    )
    latents = merge(refined.cpu().numpy(), grid, window)[..., : size.height, : size.width]
    shape = len(grid.rows), len(grid.cols)
    return Refined(torch.from_numpy(latents).to(device), groups.reshape(shape), evaluations.reshape(shape), places)


@torch.no_grad()
def sample_with_scheduler(
    coarse: Float[Tensor, "B c V V"],
    groups: Int64[Tensor, " B"],
    noise: Float[Tensor, "B c V V"],
    denoiser: Callable[[Tensor, Tensor, Tensor], Tensor],
    scheduler: Any,
    config: GroupConfig,
    *,
    batch_size: int = 64,
    from_noise: bool = False,
    generator: torch.Generator | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Float[Tensor, "B c V V"]:
    """Refine coarse patches with any diffusers scheduler (DDIM, DPM-Solver, Euler, ...), group after group.

    Group g takes the last N_g steps of the scheduler's own grid of round(N_g T / tau_g) steps: it starts at tau_g where
    that is whole, else at the nearest grid time. `scheduler` only lends its config, each batch runs a fresh copy, so
    multistep solvers keep their histories apart. The denoiser's times are the scheduler's own, also fractional ones.

    from_noise  a group with all steps of its grid (tau = T) starts from noise alone, as pipelines without a coarse
                picture do; Eq. 6 leaves it sqrt(ᾱ_T) = 0.07 of y0
    generator   of schedulers that draw noise in their steps (default: torch's global one); their result depends on
                the batch size

    coarse, groups, noise as in `Sampling`; denoiser: (x_t (b,c,V,V), t (b,), indices of these patches (b,)) ->
    prediction (b,c,V,V). Returns float32, on the device of `coarse`; raises ConfigError as `Sampling` does.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size {batch_size} must be at least 1")
    plan(config, scheduler.config.num_train_timesteps)  # for its check of the taus
    result = coarse.float().clone()
    members = [(groups.to(coarse.device) == group).nonzero().squeeze(1) for group in range(len(config.steps))]
    work = [
        (indices, tau, steps)
        for indices, tau, steps in zip(members, config.taus, config.steps, strict=True)
        if steps and len(indices)
    ]
    done, total = 0, sum(len(own) * len(_ready(scheduler, tau, steps, "cpu")[1]) for own, tau, steps in work)
    for indices, tau, steps in work:
        for batch in indices.split(batch_size):
            solver, times = _ready(scheduler, tau, steps, coarse.device)
            eps = noise[batch.to(noise.device)].to(result)
            if from_noise and len(times) == len(solver.timesteps):
                x = eps * solver.init_noise_sigma
            else:
                x = solver.add_noise(result[batch], eps, times[:1])  # Eq. 6
            options = {"generator": generator} if "generator" in signature(solver.step).parameters else {}
            for time in times:
                prediction = denoiser(solver.scale_model_input(x, time), time.expand(len(batch)), batch).float()
                x = solver.step(prediction, time, x, **options).prev_sample
                done += len(batch)
                if on_step:
                    on_step(done, total)
            result[batch] = x
    return result


def _ready(scheduler: Any, tau: int, steps: int, device: torch.device | str) -> tuple[Any, Tensor]:
    """A copy of `scheduler` that begins at the last `steps` of its grid up to tau, and the times of these."""
    solver = type(scheduler).from_config(scheduler.config)
    grid_steps = round(steps * scheduler.config.num_train_timesteps / tau)
    solver.set_timesteps(grid_steps, device=device)
    begin = (grid_steps - steps) * solver.order
    if hasattr(solver, "set_begin_index"):
        solver.set_begin_index(begin)
    return solver, solver.timesteps[begin:]
