"""PatchScaler as nodes of ComfyUI: load a model, enlarge, see what is difficult, use a texture memory of one's own.

The nodes translate and do nothing else; the work is in the package patchscaler (`patchscaler.integrations.comfy`).
"""

from pathlib import Path
from typing import Any

CATEGORY = "image/upscaling"
MODEL = "PATCHSCALER_MODEL"


def _device() -> Any:
    """Where ComfyUI wants models to run."""
    from comfy.model_management import get_torch_device

    return get_torch_device()


def _progress() -> Any:
    """ComfyUI's progress bar, told shares of the work; the stop button is heeded at every one."""
    from comfy.model_management import throw_exception_if_processing_interrupted
    from comfy.utils import ProgressBar

    bar = ProgressBar(100)

    def show(share: float) -> None:
        throw_exception_if_processing_interrupted()
        bar.update_absolute(round(100 * share))

    return show


class PatchScalerModel:
    """Loads a model, once."""

    CATEGORY = CATEGORY
    RETURN_TYPES = (MODEL,)
    RETURN_NAMES = ("model",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        tooltip = "tiny: the bundled model; or a model folder, or a hub id"
        return {"required": {"name": ("STRING", {"default": "tiny", "tooltip": tooltip})}}

    def load(self, name: str) -> tuple[Any]:
        from patchscaler.integrations.comfy import load_model

        return (load_model(name, _device()),)


class PatchScalerUpscale:
    """Enlarges pictures."""

    CATEGORY = CATEGORY
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "upscale"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": (MODEL,),
                "image": ("IMAGE",),
                "scale": ("FLOAT", {"default": 4.0, "min": 1.0, "max": 8.0, "step": 0.05}),
                "quality": (["fast", "balanced", "best"], {"default": "balanced"}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**63 - 1}),
            },
            "optional": {
                "denoise": (
                    "FLOAT",
                    {"default": -1.0, "min": -1.0, "max": 1.0, "step": 0.05, "tooltip": "0 to 1; below 0: by itself"},
                ),
                "wrap": ("BOOLEAN", {"default": False, "tooltip": "for textures that tile"}),
            },
        }

    def upscale(
        self,
        model: Any,
        image: Any,
        scale: float,
        quality: str,
        seed: int,
        denoise: float = -1.0,
        wrap: bool = False,
    ) -> tuple[Any]:
        from patchscaler.integrations.comfy import upscale

        asked = None if denoise < 0 else denoise
        options = {"scale": scale, "quality": quality, "seed": seed, "denoise": asked, "wrap": wrap}
        return (upscale(model, image, **options, on_share=_progress()),)


class PatchScalerDifficultyMap:
    """Shows where the steps would go: blue simple, yellow medium, vermilion hard; and the confidence as a mask."""

    CATEGORY = CATEGORY
    RETURN_TYPES = ("IMAGE", "MASK")
    RETURN_NAMES = ("map", "confidence")
    FUNCTION = "draw"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": (MODEL,), "image": ("IMAGE",)}}

    def draw(self, model: Any, image: Any) -> tuple[Any, Any]:
        from patchscaler.integrations.comfy import difficulty

        return difficulty(model, image)


class PatchScalerTextureMemory:
    """The model with a texture memory of one's own photos: loaded from `memory`, or built there of `photos` first.

    Textures are cut from the photos as they are, 128 pixels wide, at the sharpness that results shall have. A photo
    with a side below 256 pixels has hardly any of them, and enlarging it first would teach its blur: it is left out.
    """

    CATEGORY = CATEGORY
    RETURN_TYPES = (MODEL,)
    RETURN_NAMES = ("model",)
    FUNCTION = "use"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": (MODEL,),
                "memory": ("STRING", {"default": "", "tooltip": "folder of a texture memory, made if it is missing"}),
            },
            "optional": {
                "photos": (
                    "STRING",
                    {"default": "", "tooltip": "folder of sharp photos, sides from 256 pixels on, to build it of"},
                ),
                "size": ("INT", {"default": 2000, "min": 1, "max": 100_000, "tooltip": "textures kept"}),
                "candidates": ("INT", {"default": 20_000, "min": 1, "max": 1_000_000, "tooltip": "to choose from"}),
            },
        }

    def use(self, model: Any, memory: str, photos: str = "", size: int = 2000, candidates: int = 20_000) -> tuple[Any]:
        from patchscaler.errors import ConfigError
        from patchscaler.integrations.comfy import with_memory
        from patchscaler.models.texture import ReferenceTextureMemory

        if not memory:
            raise ConfigError("memory: name the folder of a texture memory")
        if not Path(memory, "config.json").is_file():
            if not photos:
                raise ConfigError(f"{memory}: holds no texture memory; name a folder of photos to build it of")
            self._build(model, memory, photos, size, candidates)
        return (with_memory(model, ReferenceTextureMemory.from_pretrained(memory)),)

    def _build(self, model: Any, memory: str, photos: str, size: int, candidates: int) -> None:
        from patchscaler.data.pictures import PictureSet
        from patchscaler.errors import ConfigError, DataError
        from patchscaler.storage import model_folder
        from patchscaler.training.memory import build_memory

        parts, show = Path(model_folder(model.engine.model.name)), _progress()
        try:
            build_memory(
                PictureSet(photos, cache=f"{memory}_cache"),
                str(parts / "autoencoder"),
                str(parts / "texture_classifier"),
                memory,
                size=size,
                candidates=candidates,
                on_candidate=lambda done: show(done / candidates),
            )
        except DataError as error:
            why = "small photos don't serve: textures are cut 128 pixels wide from sharp ones, as they are"
            raise ConfigError(f"{error}; {why}") from error


NODE_CLASS_MAPPINGS = {
    "PatchScalerModel": PatchScalerModel,
    "PatchScalerUpscale": PatchScalerUpscale,
    "PatchScalerDifficultyMap": PatchScalerDifficultyMap,
    "PatchScalerTextureMemory": PatchScalerTextureMemory,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "PatchScalerModel": "PatchScaler: model",
    "PatchScalerUpscale": "PatchScaler: upscale",
    "PatchScalerDifficultyMap": "PatchScaler: difficulty map",
    "PatchScalerTextureMemory": "PatchScaler: texture memory",
}
