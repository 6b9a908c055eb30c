"""Which adapter serves which diffusers pipeline, and loading one by its own `from_pretrained`."""

import functools
import os
import warnings
from collections.abc import Callable
from typing import Any

import torch

from patchscaler.errors import ConfigError, WeightsError
from patchscaler.integrations import ldm_upscale, sd_img2img, sd_upscale, stablesr
from patchscaler.integrations.diffusers.calls import dtype_argument
from patchscaler.integrations.frame import Upscaled

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


def load_backbone(
    name: str, device: str, dtype: torch.dtype, style: str | None = None, prompt: str | None = None
) -> tuple[Any, Callable[..., Upscaled]]:
    """The diffusers pipeline of a hub id or folder, loaded by its own class, and its adapter with the prompt bound.

    The pipeline shows no bars, and its autoencoder takes large pictures in diffusers' own tiles. Raises WeightsError
    where it can't be loaded; ConfigError, before its weights are read, for a class without an adapter, for a style that
    isn't its, for a prompt it doesn't take, and without the package transformers where the pipeline needs it.
    """
    if os.path.sep in name and not os.path.isdir(name) and (name.count("/") != 1 or name.startswith((".", "/"))):
        raise WeightsError(f"{name}: no such folder; name a pipeline's folder or a hub id (owner/name)")
    import diffusers

    diffusers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the libraries, about each other
            named = diffusers.DiffusionPipeline.load_config(name)["_class_name"]
            class_name = str(named[-1] if isinstance(named, list) else named)  # with its module, if it is custom
            style, adapter = adapter_for(class_name, style)
            if prompt is not None and style not in PROMPTED:
                raise ConfigError(f"the backbone style {style} takes no prompt; leave it out")
            adapter = adapter if prompt is None else functools.partial(adapter, prompt=prompt)
            if style in PROMPTED:
                from transformers.utils.logging import disable_progress_bar, set_verbosity_error

                disable_progress_bar()
                set_verbosity_error()  # it would advise everybody to install torchvision
            pipe: Any = getattr(diffusers, class_name).from_pretrained(name, **dtype_argument(dtype))
    except ImportError as error:
        raise ConfigError(f'{name}: needs transformers: pip install "patchscaler[backbone]" ({error})') from error
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{name}: diffusers can't load it ({' '.join(str(error).split())})") from error
    pipe.set_progress_bar_config(disable=True)
    if hasattr(getattr(pipe, "vae", None), "enable_tiling"):
        pipe.vae.enable_tiling()
    return pipe.to(device), adapter
