"""Trained parts that a run builds on, frozen."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin

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


def any_device() -> torch.device:
    """The GPU that is there, or the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
