"""Training of the `tiny` autoencoder's decoder: pixels, gradients, and perceptual features of a pretrained network.

The encoder is a fixed DCT, so its latents' statistics are measured once at the start and the rest is the decoder. It is
trained on latents as the diffusion model leaves them, not only on clean ones: a share of them is disturbed by noise.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from patchscaler.data.pairs import validation_pairs
from patchscaler.data.pictures import PicturePool, PictureSet
from patchscaler.data.reading import picture_files
from patchscaler.metrics.fidelity import psnr_y
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.training.perceptual import PerceptualLoss
from patchscaler.training.settings import RunSettings
from patchscaler.training.validation import sheet


@dataclass(frozen=True)
class AutoencoderSettings:
    """One autoencoder run.

    model             DctAutoencoder's config, without the statistics
    crop              side of the training crops in pixels
    gradient_weight   weight of the L1 distance of horizontal and vertical differences
    perceptual_weight weight of the feature distance; 0: none
    noise             the latents of half of the samples get Gaussian noise of a deviation drawn from 0..noise
    """

    run: RunSettings
    pictures: PictureSet
    validation: str
    model: dict[str, Any] = field(default_factory=dict)
    crop: int = 128
    gradient_weight: float = 0.5
    perceptual_weight: float = 0.1
    noise: float = 0.2
    validation_count: int = 12
    statistics_crops: int = 2000


class CropDataset(Dataset):
    """Sample `index` -> (3,crop,crop) uint8."""

    def __init__(self, pool: PicturePool, seed: int, crop: int) -> None:
        pool.check_crop(crop)
        self.pool, self.seed, self.crop = pool, seed, crop

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, index: int) -> Tensor:
        return self.pool.crop(self.seed, index, self.crop)


def latent_statistics(model: dict[str, Any], crops: CropDataset, count: int) -> dict[str, list[float]]:
    """Mean and standard deviation of each latent channel over the first `count` crops, as config entries."""
    plain = DctAutoencoder(**model)
    batches = [torch.stack([crops[i] for i in range(s, min(s + 50, count))]) for s in range(0, count, 50)]
    latents = torch.cat([plain.encode(b.float() / 255).transpose(0, 1).flatten(1) for b in batches], dim=1)
    return {
        "latents_mean": [round(float(v), 5) for v in latents.mean(dim=1)],
        "latents_std": [round(float(v), 5) for v in latents.std(dim=1)],
    }


class AutoencoderTask:
    def __init__(self, settings: AutoencoderSettings) -> None:
        self.settings = settings
        picture_files(Path(settings.validation))  # a missing folder fails now, not at the first validation
        self.crops = CropDataset(PicturePool(settings.pictures), settings.run.seed, settings.crop)
        statistics = latent_statistics(settings.model, self.crops, settings.statistics_crops)
        torch.manual_seed(settings.run.seed)
        autoencoder = DctAutoencoder(**settings.model, **statistics)
        self.network: nn.Module = autoencoder.to(memory_format=torch.channels_last)
        self.perceptual = PerceptualLoss() if settings.perceptual_weight else None
        self._pairs: list[dict[str, Tensor]] | None = None

    def dataset(self) -> Dataset:
        return self.crops

    def loss(self, network: nn.Module, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        settings = self.settings
        pixels = batch.float() / 255
        autoencoder: Any = self.network
        latents = autoencoder.encode(pixels)
        deviation = torch.rand(len(latents), 1, 1, 1, generator=generator) * settings.noise
        disturbed = torch.rand(len(latents), 1, 1, 1, generator=generator) < 0.5
        noise = torch.randn(latents.shape, generator=generator) * deviation * disturbed
        decoded = autoencoder.decode(latents + noise.to(latents.device))
        absolute = (decoded - pixels).abs().mean()
        gradient = sum((decoded.diff(dim=d) - pixels.diff(dim=d)).abs().mean() for d in (2, 3))
        loss = absolute + settings.gradient_weight * gradient
        figures = {"l1": absolute.detach()}
        if self.perceptual is not None:
            perceptual = self.perceptual(decoded, pixels)
            loss = loss + settings.perceptual_weight * perceptual
            figures["perceptual"] = perceptual.detach()
        return loss, figures

    def validate(self) -> tuple[dict[str, float], Image.Image | None]:
        if self._pairs is None:
            self._pairs = validation_pairs(self.settings.validation, self.settings.validation_count, side=256)
        autoencoder: Any = self.network
        rows, psnr, distance = [], 0.0, 0.0
        for pair in self._pairs:
            latents = autoencoder.encode(pair["hr"])
            decoded = autoencoder.decode(latents).clamp(0, 1)
            psnr += float(psnr_y(decoded, pair["hr"])) / len(self._pairs)
            if self.perceptual is not None:
                distance += float(self.perceptual(decoded, pair["hr"])) / len(self._pairs)
            rows.append([autoencoder.inverse_dct(latents), decoded, pair["hr"]])
        return {"psnr_y": psnr, "perceptual": distance}, sheet(rows[:6])

    def export(self, folder: Path) -> None:
        self.network.save_pretrained(folder)  # type: ignore[operator]
