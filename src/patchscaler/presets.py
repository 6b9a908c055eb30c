"""The presets `tiny` and `paper`: the config of every network, and the networks built from it, untrained."""

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.modeling_utils import ModelMixin

from patchscaler.errors import ConfigError
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.models.patch_dit import PatchDiT
from patchscaler.models.restorer import ConvRestorer
from patchscaler.models.swin_restorer import SwinRestorer
from patchscaler.models.texture import ReferenceTextureMemory, TextureClassifier, TextureEncoder


class Part(NamedTuple):
    """One network: its class and the arguments it is made with."""

    network: type[ModelMixin]
    config: dict[str, Any]

    def build(self) -> ModelMixin:
        """The network, untrained, on the current default device. Raises ConfigError for keys it doesn't know."""
        unknown = set(self.config) - set(inspect.signature(self.network.__init__).parameters)
        if unknown:
            raise ConfigError(f"{self.network.__name__} has no setting {', '.join(sorted(unknown))}")
        return self.network(**self.config)


@dataclass(frozen=True)
class Preset:
    """The parts of PatchScaler. Raises ConfigError if two of them disagree."""

    autoencoder: Part
    restorer: Part
    patch_dit: Part
    texture_classifier: Part
    texture_encoder: Part
    texture_memory: Part

    def __post_init__(self) -> None:
        dit = self.patch_dit.config
        for key in ("latent_channels", "sample_size"):
            for field in dataclasses.fields(self):
                config = getattr(self, field.name).config
                # The autoencoder's sample_size counts the pixels it was trained on.
                if key in config and field.name != "autoencoder" and config[key] != dit[key]:
                    raise ConfigError(f"{field.name} has {key} {config[key]}, patch_dit {dit[key]}")
        if (channels := self._autoencoder_channels()) != dit["latent_channels"]:
            raise ConfigError(f"autoencoder has latent_channels {channels}, patch_dit {dit['latent_channels']}")
        if (width := self.texture_encoder.config["width"]) != dit["texture_width"]:
            raise ConfigError(f"texture_encoder has width {width}, patch_dit texture_width {dit['texture_width']}")
        features = self.texture_classifier.config["features"], self.texture_memory.config["features"]
        if features[0] != features[1]:
            raise ConfigError(f"texture_classifier has features {features[0]}, texture_memory {features[1]}")

    def _autoencoder_channels(self) -> int:
        config = self.autoencoder.config
        if self.autoencoder.network is DctAutoencoder:
            return int(config["luma"] + 2 * config["chroma"])
        return int(config["latent_channels"])

    def changed(self, **changes: Mapping[str, Any]) -> "Preset":
        """Another preset: settings replaced part by part, e.g. PAPER.changed(patch_dit={"depth": 2})."""
        parts = {}
        for name, settings in changes.items():
            part: Part = getattr(self, name)
            parts[name] = Part(part.network, {**part.config, **settings})
        return dataclasses.replace(self, **parts)


class Networks(NamedTuple):
    """The networks of a preset, in the order of the way of one image."""

    autoencoder: ModelMixin
    restorer: ModelMixin
    patch_dit: ModelMixin
    texture_classifier: ModelMixin
    texture_encoder: ModelMixin
    texture_memory: ModelMixin


def build_networks(preset: Preset) -> Networks:
    """All networks of `preset`, untrained, on the current default device. Raises ConfigError for unknown settings."""
    return Networks(*(getattr(preset, name).build() for name in Networks._fields))


# For CPUs. The autoencoder's latents_mean and latents_std are measured, and come with its weights.
TINY = Preset(
    autoencoder=Part(
        DctAutoencoder,
        {"luma": 24, "chroma": 4, "width": 128, "blocks": 3, "fine_width": 64, "fine_blocks": 4},
    ),
    restorer=Part(ConvRestorer, {"latent_channels": 32, "width": 64, "blocks": 16}),
    patch_dit=Part(
        PatchDiT,
        {
            "latent_channels": 32,
            "sample_size": 16,
            "patch_size": 2,
            "width": 256,
            "depth": 8,
            "heads": 4,
            "texture_width": 256,
        },
    ),
    texture_classifier=Part(TextureClassifier, {"latent_channels": 32, "width": 96, "blocks": 3, "features": 128}),
    texture_encoder=Part(
        TextureEncoder, {"latent_channels": 32, "sample_size": 16, "patch_size": 4, "width": 256, "top_k": 4}
    ),
    texture_memory=Part(
        ReferenceTextureMemory, {"latent_channels": 32, "sample_size": 16, "features": 128, "size": 2000}
    ),
)

# The paper's networks where it names them; docs/paper-preset.md lists what is ours.
PAPER = Preset(
    autoencoder=Part(
        AutoencoderKL,
        {
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "block_out_channels": (128, 256, 512, 512),
            "layers_per_block": 2,
            "latent_channels": 4,
            "scaling_factor": 0.18215,
            "sample_size": 512,
        },
    ),
    restorer=Part(
        SwinRestorer,
        {"latent_channels": 4, "width": 180, "groups": 8, "blocks": 6, "heads": 6, "window": 8, "mlp_ratio": 2.0},
    ),
    patch_dit=Part(
        PatchDiT,
        {
            "latent_channels": 4,
            "sample_size": 16,
            "patch_size": 2,
            "width": 1024,
            "depth": 24,
            "heads": 16,
            "texture_width": 1024,
        },
    ),
    texture_classifier=Part(TextureClassifier, {"latent_channels": 4, "width": 128, "blocks": 6, "features": 128}),
    texture_encoder=Part(
        TextureEncoder, {"latent_channels": 4, "sample_size": 16, "patch_size": 4, "width": 1024, "top_k": 4}
    ),
    texture_memory=Part(
        ReferenceTextureMemory, {"latent_channels": 4, "sample_size": 16, "features": 128, "size": 2000}
    ),
)
