"""Model folders: where the bundled weights lie, and a strict check of a folder before anything is built from it."""

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from patchscaler.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from patchscaler.models.base import ModelMixin

BUNDLED = Path(__file__).parent / "weights"
WEIGHTS = "diffusion_pytorch_model"
WEIGHTS_FILE = f"{WEIGHTS}.safetensors"


def model_folder(name_or_folder: str | Path | None) -> str:
    """None or a bundled preset's name -> its folder in the package; anything else is returned as it is."""
    if name_or_folder is None:
        name_or_folder = "tiny"
    bundled = BUNDLED / str(name_or_folder)
    if bundled.is_dir() and len(Path(name_or_folder).parts) == 1:
        return str(bundled)
    return str(name_or_folder)


def dtype_argument(dtype: torch.dtype | dict[str, torch.dtype]) -> dict[str, Any]:
    """The precision, or one for each part, as an argument of diffusers' `from_pretrained`, which has renamed it and
    warns of the old name."""
    from diffusers.utils import deprecation_utils

    return {"dtype" if hasattr(deprecation_utils, "_resolve_dtype") else "torch_dtype": dtype}


def check_part(cls: "type[ModelMixin]", folder: Path, variant: str | None = None) -> None:
    """Raises WeightsError, naming the file, unless `folder` holds exactly the tensors that its config asks of `cls`."""
    with torch.device("meta"):
        _build_checked(cls, folder, weight_files(folder, variant))


def load_part(cls: "type[ModelMixin]", folder: Path) -> "ModelMixin":
    """The network with its weights in their stored precision; checked as by `check_part`."""
    # Not on the meta device: its first use imports sympy, which takes more than a second.
    files = weight_files(folder)
    part = _build_checked(cls, folder, files)
    state = {key: value for path in files for key, value in load_file(path).items()}
    part.load_state_dict(state, assign=True)
    return part


def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """The safetensors files that diffusers would load a part from: the variant's where it has one, shards or one file.

    Raises WeightsError for pickled weights alone, and an index that names no files; a file may still be missing.
    """
    for infix in (f".{variant}", "") if variant else ("",):
        index = folder / f"{WEIGHTS}.safetensors.index{infix}.json"
        if index.is_file():
            names = sorted(set(read_json(index).get("weight_map", {}).values()))
            if not names or any(Path(name).name != name for name in names):
                raise WeightsError(f"{index}: names no weights of its folder; fetch or export the model again")
            return [folder / name for name in names]
        path = folder / f"{WEIGHTS}{infix}.safetensors"
        if path.is_file():
            return [path]
    if any(folder.glob(f"{WEIGHTS}*.bin")):
        raise WeightsError(f"{folder}: pickled weights (.bin) aren't read; save them as safetensors")
    return [path]


def _build_checked(cls: "type[ModelMixin]", folder: Path, files: Sequence[Path]) -> "ModelMixin":
    """The network that config.json asks for, untrained. Raises WeightsError unless the weights fit it."""
    config = read_json(folder / "config.json")
    own = {key: value for key, value in config.items() if not key.startswith("_")}
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
    path = files[0] if len(files) == 1 else folder
    for problem, keys in (("unknown", set(found) - set(wanted)), ("missing", set(wanted) - set(found))):
        if keys:
            raise WeightsError(
                f"{path}: {problem} tensor {min(keys)} ({len(keys)} in all); it doesn't belong to this config.json"
            )
    for key, shape in wanted.items():
        if found[key] != shape:
            raise WeightsError(f"{path}: tensor {key} has shape {found[key]}, but config.json asks for {shape}")
    return part


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor in a safetensors file, from its header. Raises WeightsError."""
    try:
        with safe_open(str(path), framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such weights; train this part or name another --model") from error
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a whole safetensors file ({error}); fetch or export it again") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a model folder. Raises WeightsError, naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such file; the folder is not a saved PatchScaler model") from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: can't be read as JSON ({error}); fetch or export the model again") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds no JSON object; fetch or export the model again")
    return content
