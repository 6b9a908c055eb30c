"""Patch-adaptive Group Sampling (PGS): the less confident the restorer is of a patch, the more steps the patch gets.

PGS knows no network. It takes coarse latent patches, their groups and a denoiser callable, so it serves other diffusion
models too. "Eq. n" is PatchScaler's (arXiv 2405.17158).

One loop serves all groups. Their step lists are aligned at the end: when k steps remain, every patch whose group has at
least k steps is active, each at its own time. With the paper's values, 8/400 = 14/700 = 20/1000, this is one uniform
grid of 20 steps that medium patches join after 6 and simple ones after 12; other values need nothing special.
"""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from patchscaler.errors import ConfigError

GROUP_NAMES = ("simple", "medium", "hard")

PredictionType = Literal["sample", "epsilon", "v_prediction"]

# (x_t (b,c,V,V), t (b,), indices of these patches (b,) int64) -> prediction (b,c,V,V)
Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]

# After each step for all patches: (number of the step, 0 with all of the hardest group's still to come; the time of the
# hardest patches in it, a scalar int64; the latents (B,c,V,V) as they are now) -> the latents to go on with, or None to
# leave all as they are
StepEnd = Callable[[int, Tensor, Tensor], Tensor | None]


@dataclass(frozen=True)
class GroupConfig:
    """Thresholds, start times and steps of the groups, simple first. Defaults are the paper's.

    gammas  thresholds on the mean confidence, falling, in [0, 1]: one fewer than groups   Eq. 2
    taus    start times, never falling, in (0, T]
    steps   sampling steps, never falling, at most tau; 0 keeps the coarse latent

    Raises ConfigError, with the numbers, where these do not hold.
    """

    gammas: tuple[float, ...] = (0.95, 0.75)
    taus: tuple[int, ...] = (400, 700, 1000)
    steps: tuple[int, ...] = (8, 14, 20)

    def __post_init__(self) -> None:
        gammas, taus, steps = self.gammas, self.taus, self.steps
        if not len(taus) == len(steps) == len(gammas) + 1:
            raise ConfigError(
                f"{len(gammas)} gammas make {len(gammas) + 1} groups, not {len(taus)} taus and {len(steps)} steps"
            )
        if not all(0 <= gamma <= 1 for gamma in gammas) or any(a <= b for a, b in pairwise(gammas)):
            raise ConfigError(f"gammas {gammas} must fall strictly and lie in [0, 1]")
        if not all(isinstance(value, int) for value in (*taus, *steps)):
            raise ConfigError(f"taus {taus} and steps {steps} must be whole numbers")
        if taus[0] < 1 or any(a > b for a, b in pairwise(taus)):
            raise ConfigError(f"taus {taus} must be at least 1 and never fall")
        if steps[0] < 0 or any(a > b for a, b in pairwise(steps)):
            raise ConfigError(f"steps {steps} must not be negative and never fall: harder patches get no fewer steps")
        if any(count > tau for count, tau in zip(steps, taus, strict=True)):
            raise ConfigError(f"steps {steps} must not exceed their taus {taus}")

    @property
    def names(self) -> tuple[str, ...]:
        """One name per group: GROUP_NAMES for the usual three, else group_0, group_1, ..."""
        count = len(self.steps)
        return GROUP_NAMES if count == len(GROUP_NAMES) else tuple(f"group_{index}" for index in range(count))


class Plan(NamedTuple):
    """The groups' times, aligned at the end.

    times  (G, max(N) + 1): times[g, k] is the time index in [-1, T) of group g when k steps remain; times[g, 0] = -1 is
           the clean latent, and entries with k > N_g are -1 and never read
    steps  (G,): N_g
    """

    times: Int64[Tensor, "G K"]
    steps: Int64[Tensor, " G"]


def assign_groups(confidence: Float[Tensor, " B"], gammas: tuple[float, ...] = (0.95, 0.75)) -> Int64[Tensor, " B"]:
    """Group of each patch from its mean confidence, Eq. 2: simple (0) from gammas[0] up, hard (last) below gammas[-1].

    A threshold belongs to the simpler side. Choice: a confidence that is not a number makes a patch hard.
    """
    thresholds = torch.tensor(gammas, dtype=torch.float32, device=confidence.device)
    return (~(confidence.float()[:, None] >= thresholds)).sum(dim=1)


def count_steps(groups: Int64[Tensor, " B"], config: GroupConfig) -> dict[str, int]:
    """Patches per group, by `config.names`, and `patch_steps`, the network's evaluations of one patch in all."""
    counts = torch.bincount(groups, minlength=len(config.steps)).tolist()
    total = sum(count * steps for count, steps in zip(counts, config.steps, strict=True))
    return dict(zip(config.names, counts, strict=True)) | {"patch_steps": total}


def plan(config: GroupConfig, train_steps: int = 1000) -> Plan:
    """Times of every group with trailing spacing: round(k tau / N) - 1 when k of N steps remain.

    Raises ConfigError where a tau exceeds `train_steps`, T.
    """
    if config.taus[-1] > train_steps:
        raise ConfigError(f"taus {config.taus} must not exceed the {train_steps} steps of the noise schedule")
    times = np.full((len(config.steps), config.steps[-1] + 1), -1, np.int64)
    for row, tau, steps in zip(times, config.taus, config.steps, strict=True):
        if steps:
            row[1 : steps + 1] = np.round(np.arange(1, steps + 1) * tau / steps) - 1
    return Plan(torch.from_numpy(times), torch.tensor(config.steps))


@torch.no_grad()
def sample(
    coarse: Float[Tensor, "B c V V"],
    groups: Int64[Tensor, " B"],
    noise: Float[Tensor, "B c V V"],
    denoiser: Denoiser,
    alphas_cumprod: Float[Tensor, " T"],
    config: GroupConfig,
    *,
    prediction_type: PredictionType = "sample",
    batch_size: int = 64,
    on_step: Callable[[int, int], None] | None = None,
    on_step_end: StepEnd | None = None,
) -> Float[Tensor, "B c V V"]:
    """Refine coarse patches by deterministic DDIM, each from its group's start time.

    coarse          the restorer's latent, y0
    groups          from `assign_groups`
    noise           standard normal eps, a function of the place (`place_noise`)
    denoiser        see `Denoiser`; its rows must not influence each other, then the batch size changes nothing
    alphas_cumprod  ᾱ_t of the schedule
    batch_size      the most patches in one call of the denoiser
    on_step         called after each batch with (patch-steps done, patch-steps in all)
    on_step_end     see `StepEnd`
    returns         float32, on the device of `coarse`; groups of zero steps are returned as they came

    Raises ConfigError for taus beyond T, an unknown prediction type or a batch size below 1.
    """
    _check_batch_size(batch_size)
    if prediction_type not in get_args(PredictionType):
        raise ConfigError(f"prediction type {prediction_type!r} must be one of {', '.join(get_args(PredictionType))}")
    device = coarse.device
    times, steps = (part.to(device) for part in plan(config, len(alphas_cumprod)))
    groups = groups.to(device)
    # Time -1 indexes the appended one: the clean latent.
    alphas = torch.cat([alphas_cumprod.to(device, torch.float32), torch.ones(1, device=device)])

    # 1. Start on the way, Eq. 6: y_tau = sqrt(ᾱ_tau) y0 + sqrt(1 - ᾱ_tau) eps. Zero steps start, and stay, at y0.
    remaining = steps[groups]
    start = alphas[times[groups, remaining]].view(-1, 1, 1, 1)
    state = start.sqrt() * coarse.float() + (1 - start).sqrt() * noise.to(device, torch.float32)

    # 2. One loop for all groups, Eq. 7: from tau to 0, patches joining when as many steps remain as they need.
    done, total = 0, int(remaining.sum())
    for k in range(config.steps[-1], 0, -1):
        active = (remaining >= k).nonzero().squeeze(1)
        for batch in active.split(batch_size):
            if not len(batch):
                continue
            x, now = state[batch], times[groups[batch], k]
            prediction = denoiser(x, now, batch).float()
            after = times[groups[batch], k - 1]
            state[batch] = ddim_step(x, prediction, alphas[now], alphas[after], prediction_type)
            done += len(batch)
            if on_step:
                on_step(done, total)
        if on_step_end and bool((remaining >= k).any()):
            hardest = int(groups[remaining >= k].max())
            changed = on_step_end(config.steps[-1] - k, times[hardest, k], state)
            if changed is None:
                break
            state = changed.to(state)
    return state


@torch.no_grad()
def sample_with_scheduler(
    coarse: Float[Tensor, "B c V V"],
    groups: Int64[Tensor, " B"],
    noise: Float[Tensor, "B c V V"],
    denoiser: Denoiser,
    scheduler: Any,
    config: GroupConfig,
    *,
    batch_size: int = 64,
    from_noise: bool = False,
    generator: torch.Generator | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Float[Tensor, "B c V V"]:
    """`sample` with any diffusers scheduler (DDIM, DPM-Solver, Euler, ...), group after group.

    Group g takes the last N_g steps of the scheduler's own grid of round(N_g T / tau_g) steps: it starts at tau_g where
    that is whole, else at the nearest grid time. `scheduler` only lends its config, each batch runs a fresh copy, so
    multistep solvers keep their histories apart. The denoiser's times are the scheduler's own, also fractional ones.

    from_noise  a group with all steps of its grid (tau = T) starts from noise alone, as pipelines without a coarse
                picture do; Eq. 6 leaves it sqrt(ᾱ_T) = 0.07 of y0
    generator   of schedulers that draw noise in their steps (default: torch's global one); their result depends on
                the batch size

    Arguments, result and errors otherwise as `sample`.
    """
    _check_batch_size(batch_size)
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


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ConfigError(f"batch_size {batch_size} must be at least 1")


def ddim_step(x: Tensor, prediction: Tensor, alpha: Tensor, alpha_next: Tensor, prediction_type: str) -> Tensor:
    """One deterministic DDIM step (Song et al., arXiv 2010.02502, Eq. 12 with sigma = 0), ᾱ given per patch (b,)."""
    clean = clean_latents(x, prediction, alpha, prediction_type)
    alpha, alpha_next = alpha.view(-1, 1, 1, 1), alpha_next.view(-1, 1, 1, 1)
    signal, spread = alpha.sqrt(), (1 - alpha).sqrt()
    if prediction_type == "sample":
        eps = (x - signal * prediction) / spread
    elif prediction_type == "epsilon":
        eps = prediction
    else:
        eps = signal * prediction + spread * x
    return alpha_next.sqrt() * clean + (1 - alpha_next).sqrt() * eps


def clean_latents(x: Tensor, prediction: Tensor, alpha: Tensor, prediction_type: str) -> Tensor:
    """What a prediction at ᾱ (b,) says of the clean latents x0; the types as in diffusers' schedulers."""
    signal, spread = alpha.view(-1, 1, 1, 1).sqrt(), (1 - alpha.view(-1, 1, 1, 1)).sqrt()
    if prediction_type == "sample":
        return prediction
    if prediction_type == "epsilon":
        return (x - spread * prediction) / signal
    return signal * x - spread * prediction
