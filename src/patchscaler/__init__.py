"""PatchScaler: patch-independent latent diffusion that enlarges photos x4 (arXiv 2405.17158).

The names below are loaded when they are first used, so that `import patchscaler` costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from patchscaler.integrations.diffusers.output import PatchScalerBatch, PatchScalerOutput
    from patchscaler.integrations.diffusers.pipeline import PatchScalerPipeline
    from patchscaler.models.autoencoder import DctAutoencoder
    from patchscaler.models.patch_dit import PatchDiT
    from patchscaler.models.restorer import ConvRestorer
    from patchscaler.models.swin_restorer import SwinRestorer
    from patchscaler.models.texture import ReferenceTextureMemory, TextureClassifier, TextureEncoder
    from patchscaler.options import Options
    from patchscaler.upscaler import Result, Upscaler

__version__ = "0.1.0"

_HOMES = {
    "Upscaler": "patchscaler.upscaler",
    "Result": "patchscaler.upscaler",
    "Options": "patchscaler.options",
    "PatchScalerPipeline": "patchscaler.integrations.diffusers.pipeline",
    "PatchScalerBatch": "patchscaler.integrations.diffusers.output",
    "PatchScalerOutput": "patchscaler.integrations.diffusers.output",
    "DctAutoencoder": "patchscaler.models.autoencoder",
    "ConvRestorer": "patchscaler.models.restorer",
    "SwinRestorer": "patchscaler.models.swin_restorer",
    "PatchDiT": "patchscaler.models.patch_dit",
    "TextureClassifier": "patchscaler.models.texture",
    "TextureEncoder": "patchscaler.models.texture",
    "ReferenceTextureMemory": "patchscaler.models.texture",
}

__all__ = [
    "ConvRestorer",
    "DctAutoencoder",
    "Options",
    "PatchDiT",
    "PatchScalerBatch",
    "PatchScalerOutput",
    "PatchScalerPipeline",
    "ReferenceTextureMemory",
    "Result",
    "SwinRestorer",
    "TextureClassifier",
    "TextureEncoder",
    "Upscaler",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'patchscaler' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
