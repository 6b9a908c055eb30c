"""The noise schedule ᾱ_t: Stable Diffusion's, with trailing steps so that the hardest patches start at t = T - 1."""

from diffusers.schedulers.scheduling_ddim import DDIMScheduler

TRAIN_STEPS = 1000  # T


def make_scheduler() -> DDIMScheduler:
    """The project's DDIM scheduler: T = 1000, scaled-linear beta 0.00085..0.012, x0 prediction, last step to ᾱ = 1.

    Its `alphas_cumprod` (T,) is what `pgs.sample` and the training take.
    """
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
