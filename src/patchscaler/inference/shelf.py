"""Where a picture's intermediate results lie: in memory, or in files of a work folder from which a run goes on."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

STATE = "state.json"


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
