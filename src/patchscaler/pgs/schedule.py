"""The noise schedule ᾱ_t: Stable Diffusion's, with trailing steps so that the hardest patches start at t = T - 1."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchscaler.errors import ConfigError

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

TRAIN_STEPS = 1000  # T


def make_scheduler() -> "DDIMScheduler":
    """The project's DDIM scheduler: T = 1000, scaled-linear beta 0.00085..0.012, x0 prediction, last step to ᾱ = 1.

    Its `alphas_cumprod` (T,) is what `Sampling` and the training take.
    """
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=TRAIN_STEPS,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="sample",
        clip_sample=False,
        timestep_spacing="trailing",
        set_alpha_to_one=True,
    )


# What of a scheduler's config makes its `alphas_cumprod`; the rest says how it would take its steps.
_NOISE_SCHEDULE = {
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr"),
}


def check_scheduler(scheduler: Any) -> None:
    """Raises ConfigError unless `scheduler` is `make_scheduler`'s but for its noise schedule.

    The sampler takes DDIM's steps by itself (`Sampling`): another solver or setting would change nothing.
    """
    kind = type(scheduler).__name__
    if kind != "DDIMScheduler":
        raise ConfigError(f"{kind} would change nothing: patches take DDIM's steps, at their own times; keep DDIM")
    for key, wanted in make_scheduler().config.items():
        if not key.startswith("_") and key not in _NOISE_SCHEDULE and scheduler.config.get(key, wanted) != wanted:
            found = scheduler.config[key]
            raise ConfigError(f"the scheduler's {key} {found!r} would change nothing: it must be {wanted!r}")


def alphas_from(config: Mapping[str, Any]) -> NDArray[np.float32]:
    """`alphas_cumprod` (T,) of the scheduler that has this config (scheduler_config.json).

    A plain scaled-linear schedule is computed here, because importing diffusers takes seconds; any other by its class.
    """
    plain = config.get("trained_betas") is None and not config.get("rescale_betas_zero_snr")
    if config.get("beta_schedule") == "scaled_linear" and plain:
        roots = np.linspace(config["beta_start"] ** 0.5, config["beta_end"] ** 0.5, config["num_train_timesteps"])
        return np.cumprod(1.0 - roots**2).astype(np.float32)
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    scheduler: Any = DDIMScheduler.from_config(dict(config))
    alphas: NDArray[np.float32] = scheduler.alphas_cumprod.numpy()
    return alphas
