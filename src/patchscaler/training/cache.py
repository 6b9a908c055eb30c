"""What frozen networks make of degraded crops, computed once and kept in memory-mapped files.

A cache is filled by the first run that needs it, in order, and filled on when it was interrupted.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from patchscaler.data.pairs import PairDataset
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.training.loader import one_thread

_CHUNK = 16


@dataclass(frozen=True)
class CacheSettings:
    """folder: where the files lie; count: crops, 0 for none: then every step restores new crops; seed: of the crops and
    their degradation; workers, precision: as in [run]."""

    folder: str = "cache/latents"
    count: int = 20_000
    seed: int = 1
    workers: int = 1
    precision: str = "bf16"


def fingerprint(
    kind: str, settings: CacheSettings, dataset: PairDataset, autoencoder: Any, networks: Sequence[Any]
) -> str:
    """Changes with whatever the values of a cache depend on; networks: whose values they are, None is left out."""
    own = isinstance(autoencoder, DctAutoencoder)  # whose encoder is computed, of these:
    keys = ("luma", "chroma", "latents_mean", "latents_std") if own else ()
    latents = [autoencoder.config[key] for key in keys]
    cached = [kind, settings.seed, settings.precision, dataset.pool.identity, asdict(dataset.settings), latents]
    digest = hashlib.sha256(json.dumps(cached, sort_keys=True).encode())
    weighed = [network for network in (*networks, None if own else autoencoder) if network is not None]
    for tensor in (tensor for network in weighed for tensor in network.state_dict().values()):
        digest.update(tensor.float().cpu().numpy().tobytes())
    return f"{settings.count}-{digest.hexdigest()[:12]}"


class CropCache:
    """Arrays of `count` samples each, by name: 8-bit for `pixels`, float16 for all others.

    shapes   of one sample (channels,s,s), s a multiple of the latents' side, which is the smallest
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
        self.side = min(shape[-1] for shape in shapes.values())
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

    def square(self, index: int, top: int, left: int, side: int) -> dict[str, Tensor]:
        """Of sample `index` the latents [top, top + side) x [left, left + side) and what lies under them, float32,
        pixels in [0,1]."""
        found = {}
        for name, array in self.arrays.items():
            scale = array.shape[-1] // self.side
            rows, columns = (slice(scale * start, scale * (start + side)) for start in (top, left))
            values = torch.from_numpy(array[index, :, rows, columns].astype(np.float32))
            found[name] = values / 255 if name == "pixels" else values
        return found


def _open(folder: Path, name: str, shape: tuple[int, ...]) -> np.memmap:
    path, dtype = (folder / f"{name}.u8", np.uint8) if name == "pixels" else (folder / f"{name}.f16", np.float16)
    return np.memmap(path, dtype=dtype, mode="r+" if path.exists() else "w+", shape=shape)
