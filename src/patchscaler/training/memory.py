"""The Reference Texture Memory from a folder of pictures, or from tar files of them.

Candidates are looked at one batch at a time, and only their keys and energies are kept: so there may be millions. The
pixels of the chosen ones are read and encoded again.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from patchscaler.data.pictures import PicturePool, PictureSet
from patchscaler.errors import ConfigError
from patchscaler.imaging.geometry import STRIDE
from patchscaler.models.latents import encode_pixels, latent_channels
from patchscaler.models.texture import ReferenceTextureMemory, TextureClassifier, farthest_points
from patchscaler.training.autoencoder import CropDataset
from patchscaler.training.frozen import any_device, load_autoencoder, load_frozen
from patchscaler.training.loader import one_thread

_BATCH = 50


class GridPatches(Dataset):
    """Sample `index` -> (3,side,side) uint8: the patches of all pictures on a grid, picture by picture.

    side, stride  pixels
    most          so many of them, evenly spread over all; 0: all
    """

    def __init__(self, pool: PicturePool, side: int, stride: int, most: int = 0) -> None:
        pool.check_crop(side)
        self.pool, self.side, self.stride = pool, side, stride
        self.columns = np.array([(row["width"] - side) // stride + 1 for row in pool.table])
        rows = np.array([(row["height"] - side) // stride + 1 for row in pool.table])
        self.ends = np.cumsum(rows * self.columns)
        total = int(self.ends[-1])
        self.numbers = np.linspace(0, total - 1, min(most or total, total)).round().astype(np.int64)
        self._last: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Tensor:
        number = int(self.numbers[index])
        picture = int(np.searchsorted(self.ends, number, side="right"))
        within = number - (int(self.ends[picture - 1]) if picture else 0)
        top, left = (self.stride * int(place) for place in divmod(within, int(self.columns[picture])))
        if self._last is None or self._last[0] != picture:  # neighbours lie in the same picture
            self._last = picture, self.pool.picture(picture)
        cut = self._last[1][top : top + self.side, left : left + self.side]
        return torch.from_numpy(np.ascontiguousarray(cut.transpose(2, 0, 1)))


@torch.no_grad()
def build_memory(
    pictures: PictureSet,
    autoencoder_folder: str,
    classifier_folder: str,
    folder: str,
    size: int = 2000,
    candidates: int = 20_000,
    seed: int = 0,
    patch: int = 16,
    stride: int | None = None,
    on_candidate: Callable[[int], None] = lambda done: None,
) -> None:
    """Saves to `folder` the `size` of `candidates` patches that farthest-point sampling chooses by keys and energies.

    patch   V, in latents
    stride  of the grid on which every picture is cut, in latents; None: patches at random places, by (seed, number).
            With a grid, 0 candidates mean all of its patches

    Choice: the distance is that of the keys plus that of the values' per-channel energy, each scaled to unit variance:
    values themselves differ by phase more than by texture.

    Raises ConfigError where there are fewer patches than `size`, WeightsError and DataError as loading does.
    """
    device = any_device()
    autoencoder = load_autoencoder(autoencoder_folder).to(device)
    classifier: Any = load_frozen(TextureClassifier, classifier_folder).to(device)
    pool, side = PicturePool(pictures), STRIDE * patch
    if stride is None:
        dataset: Any = CropDataset(pool, seed, side)
        count = candidates
    else:
        dataset = GridPatches(pool, side, STRIDE * stride, candidates)
        count = len(dataset)
    if count < size:
        raise ConfigError(f"can't choose {size} of {count} points: lower --size, or --stride")

    def latents_of(numbers: Any) -> Iterator[Tensor]:
        workers = {"num_workers": 1, "worker_init_fn": one_thread} if device.type == "cuda" else {}
        for batch in DataLoader(dataset, _BATCH, sampler=numbers, **workers):  # type: ignore[arg-type]
            yield encode_pixels(autoencoder, batch.to(device).float() / 255)

    keys, energies, done = [], [], 0
    for latents in latents_of(range(count)):
        keys.append(classifier(latents))
        energies.append(latents.square().mean(dim=(2, 3)).clamp(min=1e-4).log())
        done += len(latents)
        on_candidate(done)
    all_keys, energy = torch.cat(keys), torch.cat(energies)
    points = torch.cat([all_keys / all_keys.std(), (energy - energy.mean(dim=0)) / energy.std(dim=0)], dim=1)
    chosen = farthest_points(points, size)
    values = torch.cat([latents.cpu() for latents in latents_of(chosen.tolist())])
    memory = ReferenceTextureMemory(latent_channels(autoencoder), patch, all_keys.shape[1], size)
    memory.fill(values, all_keys[chosen].cpu())
    memory.save_pretrained(folder)
