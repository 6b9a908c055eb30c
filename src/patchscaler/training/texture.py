"""Training of the texture classifier: from latents, what a network pretrained on ImageNet sees in the pixels.

The targets are EfficientNet-Lite0's texture statistics of the HR crop, standardised; the inputs are its HR latents and,
with the same target, the coarse latents that the restorer makes of a degraded copy: so a blurry patch finds the sharp
texture it came from. A contrastive term pulls the two views of one patch together, as retrieval will compare them.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from patchscaler.data.pairs import PairDataset, PairSettings
from patchscaler.data.pictures import PictureSet
from patchscaler.models.latents import encode_pixels, enlarged_latents, latent_channels, restorer_input
from patchscaler.models.texture import TextureClassifier
from patchscaler.training.frozen import load_autoencoder, load_restorer
from patchscaler.training.perceptual import EMBEDDING, EfficientNetFeatures
from patchscaler.training.settings import RunSettings


@dataclass(frozen=True)
class TextureSettings:
    """One run of the texture classifier.

    restorer    folder of the trained GRM, whose latents are the coarse view; None: those of the bicubic enlargement
    pairs.crop  the patch in pixels
    held_out    samples for validation, of which the targets' means and spreads are taken, too
    """

    run: RunSettings
    pictures: PictureSet
    autoencoder: str
    restorer: str | None = None
    model: dict[str, Any] = field(default_factory=dict)
    pairs: PairSettings = field(default_factory=lambda: PairSettings(crop=128, draws=1))
    contrast_weight: float = 0.1
    temperature: float = 0.1
    held_out: int = 256


class TextureTask:
    def __init__(self, settings: TextureSettings) -> None:
        self.settings = settings
        self.autoencoder = load_autoencoder(settings.autoencoder)
        self.restorer = load_restorer(settings.restorer) if settings.restorer else None
        self.teacher = EfficientNetFeatures()
        torch.manual_seed(settings.run.seed)
        self.network: nn.Module = TextureClassifier(
            latent_channels=latent_channels(self.autoencoder), targets=EMBEDDING, **settings.model
        ).to(memory_format=torch.channels_last)
        self._dataset = PairDataset(settings.pictures, settings.pairs, settings.run.seed)
        batch = [self._dataset[2**30 + i] for i in range(settings.held_out)]
        seen = torch.cat([self.teacher.embedding(s["hr"][None]) for s in batch])
        self._mean, self._std = seen.mean(dim=0), seen.std(dim=0) + 1e-3
        self.frozen = [part for part in (self.autoencoder, self.restorer, self.teacher) if part is not None]
        self._held_out = {key: torch.stack([s[key] for s in batch]) for key in ("hr", "lr")}

    def dataset(self) -> Dataset:
        return self._dataset

    def _terms(self, network: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            device = batch["hr"].device
            target = (self.teacher.embedding(batch["hr"]) - self._mean.to(device)) / self._std.to(device)
            latents = encode_pixels(self.autoencoder, batch["hr"])
            coarse = self._coarse(batch["lr"])
        vectors = network(torch.cat([latents, coarse]))
        predicted = self.network.predict(vectors).float()  # type: ignore[operator]
        sharp, blurred = vectors.chunk(2)
        scores = blurred @ sharp.T / self.settings.temperature
        return {
            "regression": F.mse_loss(predicted, target.repeat(2, 1)),
            "contrast": F.cross_entropy(scores, torch.arange(len(scores), device=scores.device)),
            "retrieved_first": (scores.argmax(dim=1) == torch.arange(len(scores), device=scores.device)).float().mean(),
        }

    def _coarse(self, small: Tensor) -> Tensor:
        if self.restorer is not None:
            return self.restorer(restorer_input(self.restorer, self.autoencoder, small)).latents
        return enlarged_latents(self.autoencoder, small)

    def loss(
        self, network: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        terms = self._terms(network, batch)
        loss = terms["regression"] + self.settings.contrast_weight * terms["contrast"]
        return loss, {k: v.detach() for k, v in terms.items()}

    def validate(self) -> tuple[dict[str, float], Image.Image | None]:
        device = next(self.network.parameters()).device
        held_out = {name: pixels.to(device) for name, pixels in self._held_out.items()}
        return {k: float(v) for k, v in self._terms(self.network, held_out).items()}, None

    def export(self, folder: Path) -> None:
        self.network.save_pretrained(folder)  # type: ignore[operator]
