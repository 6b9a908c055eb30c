"""PatchScaler: patch-independent latent diffusion that enlarges photos x4 (arXiv 2405.17158).

The names below are loaded when they are first used, so that `import patchscaler` costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from patchscaler.models.autoencoder import DctAutoencoder
    from patchscaler.models.patch_dit import PatchDiT
    from patchscaler.models.restorer import ConvRestorer
    from patchscaler.models.swin_restorer import SwinRestorer
    from patchscaler.models.texture import ReferenceTextureMemory, TextureClassifier, TextureEncoder
    from patchscaler.pipeline import PatchScalerBatch, PatchScalerOutput, PatchScalerPipeline
    from patchscaler.sizes import Enlargement, enlarge

__version__ = "0.1.0"

_HOMES = {
    "PatchScalerPipeline": "patchscaler.pipeline",
    "PatchScalerBatch": "patchscaler.pipeline",
    "PatchScalerOutput": "patchscaler.pipeline",
    "DctAutoencoder": "patchscaler.models.autoencoder",
    "ConvRestorer": "patchscaler.models.restorer",
    "SwinRestorer": "patchscaler.models.swin_restorer",
    "PatchDiT": "patchscaler.models.patch_dit",
    "TextureClassifier": "patchscaler.models.texture",
    "TextureEncoder": "patchscaler.models.texture",
    "ReferenceTextureMemory": "patchscaler.models.texture",
    "Enlargement": "patchscaler.sizes",
    "enlarge": "patchscaler.sizes",
}

__all__ = [
    "ConvRestorer",
    "DctAutoencoder",
    "Enlargement",
    "PatchDiT",
    "PatchScalerBatch",
    "PatchScalerOutput",
    "PatchScalerPipeline",
    "ReferenceTextureMemory",
    "SwinRestorer",
    "TextureClassifier",
    "TextureEncoder",
    "enlarge",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'patchscaler' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
