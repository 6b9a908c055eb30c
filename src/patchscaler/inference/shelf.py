"""Where a picture's intermediate results lie: in memory, or in files of a work folder from which a run goes on."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from patchscaler import __version__
from patchscaler.imaging.picture import Picture
from patchscaler.inference.parts import PARTS, SCALE, SECOND_PARTS, Parts
from patchscaler.inference.settings import Settings

STATE = "state.json"
LARGE = 16_000_000  # pixels of a result from which on the work lies in files


class Shelf:
    """Named arrays, and notes of what is done.

    folder  None: arrays in memory. Else files there; what an earlier run has left is taken up again, so the folder must
            belong to one picture and one set of settings. An array's file is mapped only while it is read or written:
            what the process holds in memory doesn't grow with the picture.

    Notes are written after the data they speak of. A killed process leaves both; a power cut may not.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._arrays: dict[str, NDArray[Any]] = {}
        self.notes: dict[str, Any] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / STATE).exists():
                self.notes = json.loads((folder / STATE).read_text(encoding="utf-8"))

    def array(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
        """The array, zero where it is new. Drop it soon: a file stays mapped as long as you hold it."""
        if self.folder is None:
            return (
                self._arrays.setdefault(name, np.zeros(shape, dtype))
                if name not in self._arrays
                else self._arrays[name]
            )
        path = self.folder / f"{name}.raw"
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if not path.exists() or path.stat().st_size != size:
            with path.open("wb") as file:
                file.truncate(size)
        return np.memmap(path, dtype, mode="r+", shape=shape)

    def note(self, **notes: Any) -> None:
        """Remember; for the next run too, where there is a folder."""
        self.notes |= notes
        if self.folder is not None:
            partial = self.folder / f"{STATE}.part"
            partial.write_text(json.dumps(self.notes), encoding="utf-8")
            os.replace(partial, self.folder / STATE)

    def clear(self) -> None:
        """Everything goes, the folder too."""
        self._arrays.clear()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def fingerprint(picture: Picture, settings: Settings, parts: Parts) -> str:
    """A name for the work on one picture with one model and one set of settings, whatever the files are called."""
    digest = hashlib.sha256(f"{__version__} {settings} {parts.dtype} {parts.overlap} {picture.bits}".encode())
    for plane in (picture.pixels, picture.alpha):
        digest.update(b"-" if plane is None else plane.contiguous().numpy().tobytes())
    for network in filter(None, (getattr(parts, name) for name in ("autoencoder", *PARTS, *SECOND_PARTS))):
        for name, tensor in network.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def shelf_for(result: Path, picture: Picture, settings: Settings, parts: Parts, resume: bool) -> Shelf:
    """Where the work on `picture` lies until `result` is written: in memory for a small one that isn't to be resumed,
    else in a hidden folder beside the result. Without `resume`, what an earlier run has left there is dropped.
    """
    if not resume and SCALE**2 * picture.size.height * picture.size.width < LARGE:
        return Shelf()
    folder = result.parent / f".{result.name}.{fingerprint(picture, settings, parts)}.work"
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    return Shelf(folder)
