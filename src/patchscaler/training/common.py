"""What several training tasks share: frozen parts, sample sheets, threads of data workers."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.modeling_utils import ModelMixin
from PIL import Image
from torch import Tensor

from patchscaler.data.pictures import is_decoded
from patchscaler.errors import WeightsError
from patchscaler.models.autoencoder import STRIDE, DctAutoencoder

_MARGIN = 2  # latents decoded around the compared ones, so that the decoder's zero padding isn't compared


def load_autoencoder(folder: str) -> DctAutoencoder:
    """The frozen autoencoder in `folder`; WeightsError when it isn't there."""
    return load_frozen(DctAutoencoder, folder)


def load_frozen(cls: type[ModelMixin], folder: str) -> Any:
    """The trained `cls` in `folder`, frozen; WeightsError when it isn't there."""
    if not (Path(folder) / "config.json").exists():
        raise WeightsError(f"{folder}: no {cls.__name__} here; make it first (docs/training.md) or name its folder")
    # Bundled weights are half precision, and diffusers keeps that: as training parameters they would lose every small
    # step, and processors compute them at a crawl.
    network: Any = cls.from_pretrained(folder).float()
    return network.eval().requires_grad_(False)


def decode_square(autoencoder: DctAutoencoder, latents: Tensor, place: tuple[int, int], side: int) -> Tensor:
    """Pixels (n,3,8 side,8 side) of the latents [place, place + side), decoded with what lies around them."""
    around = F.pad(latents, (_MARGIN,) * 4, mode="replicate")
    rows, cols = (slice(start, start + side + 2 * _MARGIN) for start in place)
    decoded = autoencoder.decode(around[..., rows, cols].contiguous(memory_format=torch.channels_last))
    border = STRIDE * _MARGIN
    return decoded[..., border:-border, border:-border]


def pixel_square(pixels: Tensor, place: tuple[int, int], side: int) -> Tensor:
    """The pixels under the latents [place, place + side)."""
    rows, cols = (slice(STRIDE * start, STRIDE * (start + side)) for start in place)
    return pixels[..., rows, cols]


def grid_energy(residual: Tensor, period: int) -> Tensor:
    """How strongly a residual (n,c,H,W) repeats every `period` pixels: its energy per cell after averaging the cells.

    The variance of an ordinary residual; as many times more as there are cells for one that is the same in each. Losses
    that compare places one by one hardly see such a pattern, the eye sees it first.
    """
    rows, cols = (length // period for length in residual.shape[-2:])
    cells = residual[..., : rows * period, : cols * period].unflatten(-1, (cols, period)).unflatten(-3, (rows, period))
    mean = cells.mean(dim=(-4, -2))
    return rows * cols * (mean - mean.mean(dim=(-2, -1), keepdim=True)).square().mean()


def without_traces(settings: Any, scratch: str) -> Any:
    """Settings of a run whose new caches lie in the folder `scratch` and are as small as one batch allows."""
    changed = {}
    if not is_decoded(settings.pictures):
        changed["pictures"] = dataclasses.replace(settings.pictures, cache=scratch)
    if hasattr(settings, "cache"):
        changed["cache"] = dataclasses.replace(settings.cache, folder=scratch, count=settings.run.batch_size, workers=0)
    return dataclasses.replace(settings, **changed)


def sheet(rows: list[list[Tensor]]) -> Image.Image:
    """Rows of equally sized pictures (1,3,H,W) in [0,1] side by side, at 100 %; short rows are filled up with black."""
    strips = [torch.cat([x.float().clamp(0, 1).cpu() for x in row], dim=3) for row in rows]
    width = max(strip.shape[3] for strip in strips)
    strips = [F.pad(strip, (0, width - strip.shape[3])) for strip in strips]
    pixels = torch.cat(strips, dim=2)[0].permute(1, 2, 0).mul(255).round()
    return Image.fromarray(pixels.numpy().astype(np.uint8))


def one_thread(worker: int) -> None:
    """For DataLoader's worker_init_fn: the processor belongs to the training process."""
    torch.set_num_threads(1)
