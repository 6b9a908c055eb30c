"""The networks of one model together, loaded strictly, and what several of them do: restore and prompt."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from patchscaler.errors import WeightsError
from patchscaler.imaging.tiles import OVERLAP
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.models.base import ModelMixin
from patchscaler.models.fusion import Fusion
from patchscaler.models.grm import GlobalRestoration
from patchscaler.models.latents import decode_latents
from patchscaler.models.loading import arguments_of, check_part, load_part
from patchscaler.models.patch_dit import PatchDiT, TextureCache
from patchscaler.models.restorer import ConvRestorer
from patchscaler.models.rrdb import RrdbRestorer
from patchscaler.models.swin_restorer import SwinRestorer
from patchscaler.models.text_prompt import captions
from patchscaler.models.texture import ReferenceTextureMemory, TextureClassifier, TextureEncoder
from patchscaler.pgs.schedule import alphas_from
from patchscaler.storage import read_json

# For fewer rows, products and convolutions go other ways whose last bits differ: with empty patches beside it, a single
# patch gets the very textures and weights that it gets among others (measured: docs/scale.md).
FEWEST_QUERIES = 4
Classes = dict[str, tuple[type[ModelMixin], ...]]  # that a model folder's parts may have
# Those of a model whose prompt is texture.
TEXTURE_PARTS: Classes = {
    "texture_classifier": (TextureClassifier,),
    "texture_encoder": (TextureEncoder,),
    "texture_memory": (ReferenceTextureMemory,),
}
PARTS: Classes = {"restorer": (ConvRestorer, SwinRestorer), "patch_dit": (PatchDiT,), **TEXTURE_PARTS}
SAMPLING_PARTS = {"patch_dit", *TEXTURE_PARTS}  # what a worker process needs
# Those that are faster with the channels of a pixel side by side.
CONVOLUTIONAL = ("autoencoder", "restorer", "second_restorer", "fusion", "texture_classifier")
# Parts that a model has both of or none: the second restorer of the GRM, and what decides whether it is asked.
SECOND_PARTS: Classes = {"second_restorer": (RrdbRestorer,), "fusion": (Fusion,)}


@dataclass(frozen=True)
class Model:
    """What enlarges a picture.

    texture_*  None where Patch-DiT's prompt is another
    second_restorer, fusion  both or none
    alphas   ᾱ_t of the noise schedule (T,)
    overlap  of neighbouring patches, in latents
    run_on   where the networks work, if they lie elsewhere between calls; None: where they lie
    """

    autoencoder: Any  # DctAutoencoder or diffusers' AutoencoderKL
    restorer: Any  # ConvRestorer or SwinRestorer
    patch_dit: PatchDiT
    texture_classifier: Any  # TextureClassifier
    texture_encoder: Any  # TextureEncoder
    texture_memory: Any  # ReferenceTextureMemory
    alphas: NDArray[np.float32]
    overlap: int
    second_restorer: RrdbRestorer | None = None
    fusion: Fusion | None = None
    run_on: torch.device | None = None

    @property
    def device(self) -> torch.device:
        return self.run_on or next(self.patch_dit.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return self.patch_dit.dtype

    @property
    def patch(self) -> int:
        """V, patch side in latents."""
        return int(self.patch_dit.config["sample_size"])

    @property
    def grm(self) -> GlobalRestoration:
        return GlobalRestoration(self.restorer, self.autoencoder, self.second_restorer, self.fusion)

    @property
    def sampling_parts(self) -> dict[str, ModelMixin]:
        """Those of SAMPLING_PARTS that this model has."""
        found = {name: getattr(self, name) for name in PARTS if name in SAMPLING_PARTS}
        return {name: part for name, part in found.items() if part is not None}

    def prompt(self, patches: Float[Tensor, "n c V V"]) -> TextureCache:
        """Keys and values for Patch-DiT of the prompt of each coarse patch."""
        return self.patch_dit.texture_cache(self.prompt_tokens(patches))

    def prompt_tokens(self, patches: Float[Tensor, "n c V V"]) -> Float[Tensor, "n k d"]:
        """The tokens that `prompt` makes keys and values of."""
        found = self.look_up(patches)
        tokens: Tensor = found[0] if len(found) == 1 else self.texture_encoder(*found)
        return tokens

    def look_up(self, patches: Float[Tensor, "n c V V"]) -> tuple[Tensor, ...]:
        """What the frozen parts know of each coarse patch.

        prompt "texture"  Algorithm 1: the textures most similar to it (n,K,c,V,V), and their similarities (n,K)
        prompt "text"     the tokens of its caption (n,k,d)
        """
        config = self.patch_dit.config
        if config["prompt"] == "text":
            text = captions(config["captioner"], config["text_encoder"], patches.device)
            return (text.tokens(text.describe(decode_latents(self.autoencoder, patches).clamp(0, 1))),)
        some = nn.functional.pad(patches, (0,) * 7 + (max(0, FEWEST_QUERIES - len(patches)),))
        found = self.texture_memory(self.texture_classifier(some), int(self.texture_encoder.config["top_k"]))
        return tuple(part[: len(patches)] for part in found)


def channels_last(*parts: nn.Module | None) -> None:
    """Convolutional parts are faster with the channels of a pixel side by side."""
    for part in filter(None, parts):
        part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def load_model(folder: Path, dtype: torch.dtype, device: str = "cpu") -> Model:
    """A saved model, ready to be used. Strict: raises WeightsError, naming the file, as `check_part`."""
    index = read_json(folder / "model_index.json")
    loaded: dict[str, Any] = dict.fromkeys(TEXTURE_PARTS)
    for name, classes in _parts_in(folder).items():
        cls = part_class(folder / name, name, classes)
        part: nn.Module = load_part(cls, folder / name) if cls else _diffusers_autoencoder(folder / name)
        loaded[name] = nn.Module.to(part, device, dtype).eval()  # diffusers' own `to` warns where nothing is wrong
    channels_last(*(part for name, part in loaded.items() if name in CONVOLUTIONAL))
    alphas = alphas_from(read_json(folder / "scheduler" / "scheduler_config.json"))
    return Model(**loaded, alphas=alphas, overlap=int(index.get("overlap", OVERLAP)))


def parts_of(prompt: str) -> Classes:
    """The parts that every model with this prompt has."""
    texture = {} if prompt == "texture" else TEXTURE_PARTS
    return {"autoencoder": (DctAutoencoder,), **{name: PARTS[name] for name in PARTS if name not in texture}}


def prompt_of(patch_dit: Path) -> str:
    """Of a saved Patch-DiT. Raises WeightsError."""
    return str(read_json(patch_dit / "config.json").get("prompt", "texture"))


def _parts_in(folder: Path) -> Classes:
    """The parts that a model folder has to hold, and those second ones that it holds."""
    second = {name: classes for name, classes in SECOND_PARTS.items() if (folder / name).is_dir()}
    if second and second.keys() != SECOND_PARTS.keys():
        raise WeightsError(f"{folder}: {' and '.join(SECOND_PARTS)} go together, but only {min(second)} is there")
    return {**parts_of(prompt_of(folder / "patch_dit")), **second}


def pack(model: Model) -> dict[str, Any]:
    """The parts that sample as plain values and tensors, which any process can take, with or without diffusers."""
    packed: dict[str, Any] = {"alphas": model.alphas, "overlap": model.overlap}
    for name, part in model.sampling_parts.items():
        packed[name] = (arguments_of(part.config), {key: value.cpu() for key, value in part.state_dict().items()})
    return packed


def unpack(packed: dict[str, Any], device: str) -> Model:
    """A model that can prompt and sample, and nothing else, from `pack`."""
    loaded: dict[str, Any] = dict.fromkeys(TEXTURE_PARTS)
    for name in SAMPLING_PARTS & packed.keys():
        config, state = packed[name]
        part = PARTS[name][0](**config)
        part.load_state_dict(state, assign=True)
        loaded[name] = nn.Module.to(part, device).eval()
    channels_last(loaded["texture_classifier"])
    return Model(autoencoder=None, restorer=None, **loaded, alphas=packed["alphas"], overlap=packed["overlap"])


def part_class(folder: Path, name: str, classes: tuple[type[ModelMixin], ...]) -> type[ModelMixin] | None:
    """The class that a part's config names; None for an autoencoder of diffusers'. Raises WeightsError for others."""
    class_name = str(read_json(folder / "config.json").get("_class_name", ""))
    matching = [cls for cls in classes if cls.__name__ == class_name]
    if not matching and name != "autoencoder":
        raise WeightsError(f"{folder}: class {class_name} is none of {[cls.__name__ for cls in classes]}")
    return matching[0] if matching else None


def check_folder(folder: Path, variant: str | None = None, given: Collection[str] = ()) -> None:
    """Strict check of all our parts in a model folder; the autoencoder's too unless it is a diffusers class.

    given  parts that come from elsewhere
    """
    for name, classes in _parts_in(folder).items():
        cls = None if name in given else part_class(folder / name, name, classes)
        if cls is not None:
            check_part(cls, folder / name, variant)


def _diffusers_autoencoder(folder: Path) -> ModelMixin:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    try:
        return AutoencoderKL.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder}: {' '.join(str(error).split())}") from error
