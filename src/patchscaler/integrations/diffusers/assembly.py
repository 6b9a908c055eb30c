"""From run folders to one model folder: half-precision weights of all parts and a record of how they were made."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin

from patchscaler import __version__
from patchscaler.errors import WeightsError
from patchscaler.integrations.diffusers.pipeline import PatchScalerPipeline
from patchscaler.models.loading import check_part
from patchscaler.models.model import SECOND_PARTS, TEXTURE_PARTS, parts_of, prompt_of
from patchscaler.pgs.schedule import make_scheduler
from patchscaler.storage import read_json

FORMAT_VERSION = 1


def assemble(
    folders: dict[str, Path], out: Path, licence: str = "Apache-2.0", figures: dict[str, Any] | None = None
) -> PatchScalerPipeline:
    """Loads every part strictly from its folder, saves them as half-precision safetensors to `out` with record.json.

    folders: part name (autoencoder, restorer, patch_dit; where that is prompted by textures, texture_classifier,
    texture_encoder, texture_memory; for a model with a second restorer, second_restorer and fusion, too) -> folder
    Raises WeightsError for a part that is absent or doesn't fit its config.
    """
    second = {name: options for name, options in SECOND_PARTS.items() if name in folders}
    prompt = prompt_of(folders["patch_dit"]) if "patch_dit" in folders else "texture"
    classes = {**parts_of(prompt), **second}
    parts: dict[str, ModelMixin | None] = dict.fromkeys(TEXTURE_PARTS)
    record: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "made_with": f"patchscaler {__version__}, torch {torch.__version__}",
        "date": time.strftime("%Y-%m-%d"),
        "licence": licence,
        "figures": figures or {},
        "training": {},
    }
    for name, options in classes.items():
        if name not in folders:
            raise WeightsError(f"no folder given for the part {name}")
        class_name = str(read_json(folders[name] / "config.json").get("_class_name", ""))
        if name == "autoencoder" and class_name == "AutoencoderKL":
            from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

            cls: type[ModelMixin] | None = AutoencoderKL
        else:
            cls = next((c for c in options if c.__name__ == class_name), None)
        if cls is None:
            raise WeightsError(f"{folders[name]}: class {class_name} can't serve as {name}")
        check_part(cls, folders[name])
        parts[name] = cls.from_pretrained(folders[name]).half()
        record["training"][name] = _training_record(folders[name])
    pipeline = PatchScalerPipeline(**parts, scheduler=make_scheduler())  # type: ignore[arg-type]
    pipeline.save_pretrained(out)
    for path in (out / "model_index.json", *(out / name / "config.json" for name in classes)):
        _forget_origin(path)
    (out / "record.json").write_text(json.dumps(record, indent=2) + "\n")
    return pipeline


# Settings that name places on the machine that trained, not the training.
_PLACES = {
    *("folder", "cache", "manifest", "validation", "features", "warm_start"),
    *("autoencoder", "restorer", "classifier", "memory", "patch_dit", "texture_encoder"),
    *("second_restorer", "fusion"),
}


def _forget_origin(path: Path) -> None:
    """Drops the folder that diffusers notes a part was loaded from."""
    config = read_json(path)
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _training_record(folder: Path) -> Any:
    """What the training loop left beside the weights, or in the folder above for parts trained together."""
    for place in (folder / "training.json", folder.parent / "training.json"):
        if place.exists():
            return _without_places(read_json(place))
    return None


def _without_places(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {k: _without_places(v) for k, v in value.items() if not (k in _PLACES and isinstance(v, str | None))}
