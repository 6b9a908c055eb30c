"""Which model folders graphs fit, and which tensors those have to hold."""

from pathlib import Path
from typing import Any

from patchscaler.errors import ConfigError
from patchscaler.storage import read_json

ARCHITECTURE = "architecture.json"  # beside the graphs: of each part its `config_of`, and the shape of every tensor
PARTS = (
    *("autoencoder", "restorer", "second_restorer", "fusion", "patch_dit"),
    *("texture_classifier", "texture_encoder", "texture_memory"),
)
SECOND = {"second_restorer", "fusion"}  # a model has both or none
# What doesn't make the shape of a network: numbers that the engine reads, and what only training uses.
_FREE = {
    *("latents_mean", "latents_std", "eta", "gate_limit", "gate_reach", "gate_share", "prompt_limit", "size"),
    *("prompt", "captioner", "text_encoder"),
}


def config_of(folder: Path) -> dict[str, Any]:
    """Of a part, what its networks' shape depends on. Raises WeightsError for one that can't be read."""
    config = read_json(folder / "config.json")
    own = {key: value for key, value in config.items() if not key.startswith("_") and key not in _FREE}
    return {"class": config.get("_class_name"), **dict(sorted(own.items()))}


def configs_of(folder: Path) -> dict[str, dict[str, Any]]:
    """`config_of` all parts of a model. Raises WeightsError, naming the file, for a folder that is none; ConfigError
    for a prompt that isn't texture."""
    prompt = read_json(folder / "patch_dit" / "config.json").get("prompt", "texture")
    if prompt != "texture":
        raise ConfigError(f'{folder}: a Patch-DiT with prompt = "{prompt}" has no graphs: use --engine torch')
    return {part: config_of(folder / part) for part in PARTS if part not in SECOND or (folder / part).is_dir()}
