"""Where a picture's intermediate results lie: in memory, or spilled to files from which a killed run goes on."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchscaler import __version__
from patchscaler.engines.protocol import Engine
from patchscaler.imaging.geometry import SCALE
from patchscaler.imaging.picture import Picture
from patchscaler.imaging.writing import whole_file
from patchscaler.options import Options

STATE = "state.json"
LARGE = 16_000_000  # pixels of a result from which on the work lies in files


class Spill:
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
            if name not in self._arrays:
                self._arrays[name] = np.zeros(shape, dtype)
            return self._arrays[name]
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
            with whole_file(self.folder / STATE) as file:
                file.write(json.dumps(self.notes).encode())

    def clear(self) -> None:
        """Everything goes, the folder too."""
        self._arrays.clear()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def fingerprint(picture: Picture, options: Options, engine: Engine) -> str:
    """A name for the work on one picture with one model and one set of options, whatever the files are called."""
    digest = hashlib.sha256(f"{__version__} {options} {engine.model.overlap} {picture.bits}".encode())
    for plane in (picture.pixels, picture.alpha):
        digest.update(b"-" if plane is None else np.ascontiguousarray(plane).tobytes())
    digest.update(engine.digest())
    return digest.hexdigest()[:16]


def spill_for(result: Path | None, picture: Picture, options: Options, engine: Engine, resume: bool) -> Spill:
    """Where the work on `picture` lies until `result` is written: in memory for a small one that isn't to be resumed,
    and where no result is named, else in a hidden folder beside the result. Without `resume`, what an earlier run has
    left there is dropped.
    """
    if result is None or (not resume and SCALE**2 * picture.size.height * picture.size.width < LARGE):
        return Spill()
    folder = result.parent / f".{result.name}.{fingerprint(picture, options, engine)}.work"
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    return Spill(folder)
