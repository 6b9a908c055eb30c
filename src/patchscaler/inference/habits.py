"""What users of diffusers are used to, beside the call itself: callbacks per step, and loading from a saved folder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from patchscaler.diffusion.pgs import StepEnd
from patchscaler.errors import ConfigError

# The file in a saved folder by which `DiffusionPipeline.from_pretrained(folder, custom_pipeline=...)` finds the class.
CUSTOM_PIPELINE = "patchscaler_pipeline"
_CODE = """# DiffusionPipeline.from_pretrained(folder, custom_pipeline="patchscaler_pipeline", trust_remote_code=True)
from patchscaler.pipeline import PatchScalerPipeline

__all__ = ["PatchScalerPipeline"]
"""

# (pipeline, step, timestep, {"latents": ...}) -> a dictionary with latents to go on with, or None
StepCallback = Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None]


def write_custom_pipeline(folder: Path) -> None:
    """CUSTOM_PIPELINE, which imports the installed package and holds no code of its own."""
    (folder / f"{CUSTOM_PIPELINE}.py").write_text(_CODE, encoding="utf-8")


def step_end(
    pipe: Any, callback: StepCallback | None, names: Sequence[str], workers: int | Sequence[str]
) -> StepEnd | None:
    """diffusers' `callback_on_step_end` as the sampler calls it; `pipe.interrupt` stops the sampling.

    Raises ConfigError for other tensors than the latents, and with workers.
    """
    if callback is None:
        return None
    if set(names) - {"latents"}:
        raise ConfigError(f"callback_on_step_end_tensor_inputs {list(names)}: latents are all there is")
    if workers != 1 and (isinstance(workers, int) or len(workers) > 1):
        raise ConfigError("callback_on_step_end sees patches of this process only: leave workers out")

    def end(step: int, time: Tensor, latents: Tensor) -> Tensor | None:
        if not pipe.interrupt:
            answer = callback(pipe, step, time, dict.fromkeys(names, latents))
            latents = (answer or {}).get("latents", latents)
        return None if pipe.interrupt else latents

    return end
