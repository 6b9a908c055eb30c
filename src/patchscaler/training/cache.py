"""What frozen networks make of degraded crops, computed once and kept in memory-mapped files.

A cache is filled by the first run that needs it, in order, and filled on when it was interrupted.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from patchscaler.training.loader import one_thread

_CHUNK = 16


class CropCache:
    """Arrays of `count` samples each, by name: 8-bit for `pixels`, float16 for all others.

    shapes   of one sample
    dataset  sample number -> what `compute` makes one sample of
    compute  a batch of those -> all arrays' values, pixels in [0,1]
    """

    def __init__(
        self,
        folder: Path,
        count: int,
        shapes: dict[str, tuple[int, ...]],
        dataset: Dataset,
        compute: Callable[[dict[str, Tensor]], dict[str, Tensor]],
        workers: int = 1,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.count = folder, count
        self.arrays = {name: _open(folder, name, (count, *shape)) for name, shape in shapes.items()}
        marker = folder / "done.json"
        done = json.loads(marker.read_text())["done"] if marker.exists() else 0
        if done >= count:
            return
        loader = DataLoader(
            dataset,
            batch_size=_CHUNK,
            sampler=range(done, count),
            num_workers=workers,
            worker_init_fn=one_thread,
        )
        for batch in loader:
            with torch.no_grad():
                made = compute(batch)
            size = len(made["pixels"])
            for name, values in made.items():
                kept = (values * 255).round().byte() if name == "pixels" else values.clamp(-6e4, 6e4).half()
                self.arrays[name][done : done + size] = kept.numpy()
            done += size
            if done % (_CHUNK * 20) == 0 or done == count:
                self._mark(marker, done)
                print(f"{folder}: {done} of {count} crops", file=sys.stderr, flush=True)

    def _mark(self, marker: Path, done: int) -> None:
        for array in self.arrays.values():
            array.flush()
        fresh = marker.with_suffix(".new")
        fresh.write_text(json.dumps({"done": done}))
        os.replace(fresh, marker)

    def read(self, index: int, name: str, top: int, left: int, side: int) -> Tensor:
        """Sample `index` of one array at [top, top + side) x [left, left + side), float32, pixels in [0,1]."""
        part = self.arrays[name][index, :, top : top + side, left : left + side]
        values = torch.from_numpy(part.astype(np.float32))
        return values / 255 if name == "pixels" else values


def _open(folder: Path, name: str, shape: tuple[int, ...]) -> np.memmap:
    path, dtype = (folder / f"{name}.u8", np.uint8) if name == "pixels" else (folder / f"{name}.f16", np.float16)
    return np.memmap(path, dtype=dtype, mode="r+" if path.exists() else "w+", shape=shape)
