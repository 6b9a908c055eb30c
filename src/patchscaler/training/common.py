"""What several training tasks share: frozen parts, sample sheets, threads of data workers."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.modeling_utils import ModelMixin
from PIL import Image
from torch import Tensor

from patchscaler.data.pictures import is_decoded
from patchscaler.errors import WeightsError
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.models.restorer import ConvRestorer
from patchscaler.models.swin_restorer import SwinRestorer

RESTORERS: dict[str, type[ModelMixin]] = {"ConvRestorer": ConvRestorer, "SwinRestorer": SwinRestorer}


def load_autoencoder(folder: str) -> Any:
    """The frozen DctAutoencoder, or diffusers' AutoencoderKL, in `folder`; WeightsError when it isn't there."""
    if class_name(folder) == "AutoencoderKL":
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        return load_frozen(AutoencoderKL, folder)
    return load_frozen(DctAutoencoder, folder)


def load_restorer(folder: str) -> Any:
    """The frozen ConvRestorer or SwinRestorer in `folder`; WeightsError when it isn't there."""
    name = class_name(folder)
    restorer = load_frozen(RESTORERS.get(name, ConvRestorer), folder)
    return restorer.to(memory_format=torch.channels_last) if name != "SwinRestorer" else restorer


def class_name(folder: str) -> str:
    """The class that a part's config names; empty where there is none."""
    path = Path(folder) / "config.json"
    return str(json.loads(path.read_text(encoding="utf-8")).get("_class_name", "")) if path.exists() else ""


def load_frozen(cls: type[ModelMixin], folder: str) -> Any:
    """The trained `cls` in `folder`, frozen; WeightsError when it isn't there."""
    if not (Path(folder) / "config.json").exists():
        raise WeightsError(f"{folder}: no {cls.__name__} here; make it first (docs/training.md) or name its folder")
    # Bundled weights are half precision, and diffusers keeps that: as training parameters they would lose every small
    # step, and processors compute them at a crawl.
    network: Any = cls.from_pretrained(folder).float()
    return network.eval().requires_grad_(False)


def without_traces(settings: Any, scratch: str) -> Any:
    """Settings of a run whose new caches lie in the folder `scratch` and are as small as one batch allows."""
    changed = {}
    if not is_decoded(settings.pictures):
        changed["pictures"] = dataclasses.replace(settings.pictures, cache=scratch)
    if hasattr(settings, "cache") and settings.cache.count:
        changed["cache"] = dataclasses.replace(settings.cache, folder=scratch, count=settings.run.batch_size, workers=0)
    return dataclasses.replace(settings, **changed)


def sheet(rows: list[list[Tensor]]) -> Image.Image:
    """Rows of equally sized pictures (1,3,H,W) in [0,1] side by side, at 100 %; short rows are filled up with black."""
    strips = [torch.cat([x.float().clamp(0, 1).cpu() for x in row], dim=3) for row in rows]
    width = max(strip.shape[3] for strip in strips)
    strips = [F.pad(strip, (0, width - strip.shape[3])) for strip in strips]
    pixels = torch.cat(strips, dim=2)[0].permute(1, 2, 0).mul(255).round()
    return Image.fromarray(pixels.numpy().astype(np.uint8))


def one_thread(worker: int) -> None:
    """For DataLoader's worker_init_fn: the processor belongs to the training process."""
    torch.set_num_threads(1)
