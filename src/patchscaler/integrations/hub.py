"""Which adapter serves which diffusers pipeline, and loading one by its own `from_pretrained`."""

import functools
import os
from collections.abc import Callable
from typing import Any

import torch

from patchscaler.errors import ConfigError, WeightsError
from patchscaler.integrations import ldm_upscale, sd_img2img, sd_upscale, stablesr
from patchscaler.integrations.frame import Upscaled
from patchscaler.storage import dtype_argument

# The pipelines that PGS goes over, and their adapters; where there are two, the first unless the other is asked for.
ADAPTERS: dict[str, dict[str, Callable[..., Upscaled]]] = {
    "StableDiffusionPipeline": {"img2img": sd_img2img.upscale, "stablesr": stablesr.upscale},
    "StableDiffusionImg2ImgPipeline": {"img2img": sd_img2img.upscale, "stablesr": stablesr.upscale},
    "StableDiffusionUpscalePipeline": {"x4": sd_upscale.upscale},
    "LDMSuperResolutionPipeline": {"ldm": ldm_upscale.upscale},
}
PROMPTED = ("img2img", "stablesr", "x4")  # styles that take a prompt


def adapter_for(class_name: str, style: str | None = None) -> tuple[str, Callable[..., Upscaled]]:
    """Style and adapter of a pipeline class; raises ConfigError for one that PGS has no adapter for."""
    styles = ADAPTERS.get(class_name)
    if styles is None:
        raise ConfigError(f"{class_name} has no adapter; there is one for {', '.join(ADAPTERS)}")
    chosen = style or next(iter(styles))
    if chosen not in styles:
        raise ConfigError(f"{class_name} can't run as {chosen}; choose {' or '.join(styles)}")
    return chosen, styles[chosen]


def load_backbone(name: str, device: str, dtype: torch.dtype) -> Any:
    """The diffusers pipeline of a hub id or folder, by its own class, quiet, its autoencoder decoding large pictures in
    diffusers' own tiles. Raises WeightsError where it can't be loaded, ConfigError for a class without an adapter."""
    if os.path.sep in name and not os.path.isdir(name) and (name.count("/") != 1 or name.startswith((".", "/"))):
        raise WeightsError(f"{name}: no such folder; name a pipeline's folder or a hub id (owner/name)")
    try:
        import diffusers
        import transformers

        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()
        class_name = diffusers.DiffusionPipeline.load_config(name)["_class_name"]
        adapter_for(str(class_name))
        pipeline: Any = getattr(diffusers, class_name)
        pipe = pipeline.from_pretrained(name, **dtype_argument(dtype))
    except ImportError as error:
        raise ConfigError(f'{name}: needs {error.name}: pip install "patchscaler[backbone]"') from error
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{name}: diffusers can't load it ({' '.join(str(error).split())})") from error
    pipe.set_progress_bar_config(disable=True)
    if hasattr(getattr(pipe, "vae", None), "enable_tiling"):
        pipe.vae.enable_tiling()
    return pipe.to(device)


def bound(adapter: Callable[..., Upscaled], style: str, prompt: str | None) -> Callable[..., Upscaled]:
    """The adapter with a prompt; raises ConfigError where it takes none."""
    if prompt is None:
        return adapter
    if style not in PROMPTED:
        raise ConfigError(f"a {style} backbone takes no prompt; leave it out")
    return functools.partial(adapter, prompt=prompt)
