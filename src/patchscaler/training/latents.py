"""A cache of coarse latents: what the frozen GRM makes of degraded crops, so that it is computed once.

One sample is (HR pixels, coarse latents y0, log error) of a crop, 8-bit and float16, in memory-mapped files. The pixels
are kept rather than their latents: the truth of a loss in pixels, and smaller. The cache is built by the first run that
needs it, in order, and continued when it was interrupted; sample `index` is the pair dataset's.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from patchscaler.data.pairs import PairDataset, PairSettings
from patchscaler.data.pictures import PictureSet
from patchscaler.errors import ConfigError
from patchscaler.imaging.geometry import STRIDE
from patchscaler.models.grm import GlobalRestoration
from patchscaler.models.latents import latent_channels
from patchscaler.training.cache import CacheSettings, CropCache, fingerprint


def latent_cache(
    settings: CacheSettings, pictures: PictureSet, pairs: PairSettings, grm: GlobalRestoration
) -> CropCache:
    """Arrays `pixels` (count,3,8h,8w) uint8, `coarse` (count,c,h,w) and `log_error` (count,1,h,w) float16."""
    side, channels = pairs.crop // STRIDE, latent_channels(grm.autoencoder)
    dataset = PairDataset(pictures, pairs, settings.seed)

    def restore(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16"):
            restored = grm(batch["lr"].contiguous(memory_format=torch.channels_last))
        return {"pixels": batch["hr"], "coarse": restored.latents, "log_error": restored.log_error}

    networks = [grm.restorer, grm.second, grm.fusion]
    return CropCache(
        Path(settings.folder) / fingerprint("pixels", settings, dataset, grm.autoencoder, networks),
        settings.count,
        {"pixels": (3, pairs.crop, pairs.crop), "coarse": (channels, side, side), "log_error": (1, side, side)},
        dataset,
        restore,
        settings.workers,
    )


def random_patches(
    batch: dict[str, Tensor],
    coarse: Tensor,
    log_error: Tensor,
    patch: int,
    hard_share: float,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """What PatchDataset gives, of crops restored just now: a random patch of each, of `hard_share` of them the harder
    of two. No decision leaves the device, so that nothing waits and shapes alone are enough."""
    count, side = len(coarse), coarse.shape[-1]
    if side < patch:
        raise ConfigError(f"crops of {side} latents hold no patch of {patch}: set pairs.crop to {8 * patch}")
    top, left = torch.randint(side - patch + 1, (2, 2, count), generator=generator).to(coarse.device)
    hard = (torch.rand(count, generator=generator) < hard_share).to(coarse.device)
    means = F.avg_pool2d(log_error, patch, stride=1).squeeze(1)
    samples = torch.arange(count, device=coarse.device)
    second = hard & (means[samples, top[1], left[1]] > means[samples, top[0], left[0]])
    top, left = torch.where(second, top[1], top[0]), torch.where(second, left[1], left[0])
    return {
        "pixels": squares_at(batch["hr"], STRIDE * top, STRIDE * left, STRIDE * patch),
        "coarse": squares_at(coarse, top, left, patch),
        "log_error": squares_at(log_error, top, left, patch),
    }


def squares_at(planes: Tensor, top: Tensor, left: Tensor, side: int) -> Tensor:
    """Of each sample of (n,c,H,W) the square (c,side,side) at its own top (n,) and left (n,)."""
    count, channels = planes.shape[:2]
    along = torch.arange(side, device=planes.device)
    samples = torch.arange(count, device=planes.device)[:, None, None, None]
    channel = torch.arange(channels, device=planes.device)[None, :, None, None]
    return planes[samples, channel, (top[:, None] + along)[:, None, :, None], (left[:, None] + along)[:, None, None]]


class PatchDataset(Dataset):
    """Sample `index` -> {"pixels": (3,8V,8V), "coarse": (c,V,V), "log_error": (1,V,V)}: random patch, random crop.

    hard_share: this share of samples is the harder (by log error) of two places in the crop, the rest is drawn evenly.
    """

    def __init__(self, cache: CropCache, patch: int, seed: int, hard_share: float = 0.5) -> None:
        if cache.side < patch:
            raise ConfigError(f"crops of {cache.side} latents hold no patch of {patch}: set pairs.crop to {8 * patch}")
        self.cache, self.patch, self.seed, self.hard_share = cache, patch, seed, hard_share

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, index, 2])
        crop = int(rng.integers(self.cache.count))
        places = rng.integers(self.cache.side - self.patch + 1, size=(2, 2))
        candidates = [self.cache.square(crop, int(top), int(left), self.patch) for top, left in places]
        if rng.random() < self.hard_share:
            return max(candidates, key=lambda sample: float(sample["log_error"].mean()))
        return candidates[0]
