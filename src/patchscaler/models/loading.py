"""A network from its folder, strictly: nothing is built from a config or weights that don't fit each other."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from patchscaler.errors import ConfigError, WeightsError
from patchscaler.models.base import ModelMixin
from patchscaler.storage import check_shapes, read_json, read_shapes, weight_files


def check_part(cls: type[ModelMixin], folder: Path, variant: str | None = None) -> None:
    """Raises WeightsError, naming the file, unless `folder` holds exactly the tensors that its config asks of `cls`."""
    with torch.device("meta"):
        _build_checked(cls, folder, weight_files(folder, variant))


def load_part(cls: type[ModelMixin], folder: Path) -> ModelMixin:
    """The network with its weights in their stored precision; checked as by `check_part`."""
    # Not on the meta device: its first use imports sympy, which takes more than a second.
    files = weight_files(folder)
    part = _build_checked(cls, folder, files)
    state = {key: value for path in files for key, value in load_file(path).items()}
    part.load_state_dict(state, assign=True)
    return part


def arguments_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a network was made with, of its config: the rest, such as _class_name, is diffusers' own."""
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _build_checked(cls: type[ModelMixin], folder: Path, files: Sequence[Path]) -> ModelMixin:
    """The network that config.json asks for, untrained. Raises WeightsError unless the weights fit it."""
    own = arguments_of(read_json(folder / "config.json"))
    known = set(inspect.signature(cls.__init__).parameters) - {"self"}
    unknown = sorted(set(own) - known)
    if unknown:
        raise WeightsError(f"{folder / 'config.json'}: unknown key {unknown[0]}; known: {', '.join(sorted(known))}")
    try:
        part = cls(**own)
    except (ConfigError, TypeError) as error:
        raise WeightsError(f"{folder / 'config.json'}: {error}; fetch or export the model again") from error
    wanted = {key: tuple(value.shape) for key, value in part.state_dict().items()}
    found: dict[str, tuple[int, ...]] = {}
    for path in files:
        found |= read_shapes(path)
    check_shapes(files[0] if len(files) == 1 else folder, found, wanted)
    return part
