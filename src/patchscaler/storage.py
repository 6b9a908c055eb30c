"""Model folders: where they lie, bundled or fetched, and what files of weights they hold."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from patchscaler.errors import WeightsError

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


def fetch_model(name_or_folder: str | Path | None) -> Path:
    """The folder of a model: None or a bundled preset's name, a folder, or a hub id, which is downloaded unless it has
    been before. Raises WeightsError."""
    name = model_folder(name_or_folder)
    if Path(name).is_dir():
        return Path(name)
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise WeightsError(f"{name}: no such model folder; name a folder, a hub id (owner/name) or leave it out")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise WeightsError(f"{name}: no folder here; for models of the hub, pip install huggingface_hub") from error
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except (OSError, ValueError) as error:
        cure = "check the name, or the connection"
        raise WeightsError(f"{name}: no folder here, and the hub can't be reached; {cure}") from error


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


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor in a safetensors file, from its header. Raises WeightsError."""
    try:
        with safe_open(str(path), framework="numpy") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such weights; train this part or name another --model") from error
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a whole safetensors file ({error}); fetch or export it again") from error


def check_shapes(path: Path, found: Mapping[str, Sequence[int]], wanted: Mapping[str, Sequence[int]]) -> None:
    """Raises WeightsError, naming the file, unless the tensors found in it are those wanted, in their shapes."""
    for problem, keys in (("unknown", set(found) - set(wanted)), ("missing", set(wanted) - set(found))):
        if keys:
            raise WeightsError(
                f"{path}: {problem} tensor {min(keys)} ({len(keys)} in all); it doesn't belong to this config.json"
            )
    for key, shape in wanted.items():
        if tuple(found[key]) != tuple(shape):
            raise WeightsError(
                f"{path}: tensor {key} has shape {tuple(found[key])}, but config.json asks for {tuple(shape)}"
            )


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
