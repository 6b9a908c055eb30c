"""What several training tasks share: loading an autoencoder, sample sheets, psnr over validation pictures."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from patchscaler.errors import WeightsError
from patchscaler.models.autoencoder import DctAutoencoder


def load_autoencoder(folder: str) -> DctAutoencoder:
    """The frozen autoencoder in `folder`; WeightsError when it isn't there."""
    if not (Path(folder) / "config.json").exists():
        raise WeightsError(f"{folder}: no autoencoder here; run `patchscaler train autoencoder` first or name its weights")
    autoencoder = DctAutoencoder.from_pretrained(folder)
    return autoencoder.eval().requires_grad_(False)


def sheet(rows: list[list[Tensor]]) -> Image.Image:
    """Rows of equally sized pictures (1,3,H,W) in [0,1] side by side, at 100 %."""
    strips = [torch.cat([x.float().clamp(0, 1).cpu() for x in row], dim=3) for row in rows]
    pixels = torch.cat(strips, dim=2)[0].permute(1, 2, 0).mul(255).round()
    return Image.fromarray(pixels.numpy().astype(np.uint8))
