"""Training of the texture classifier: from latents, what a network pretrained on ImageNet sees in the pixels.

The targets are EfficientNet-Lite0's texture statistics of the HR crop, standardised; the inputs are its HR latents and,
with the same target, the coarse latents that the restorer makes of a degraded copy: so a blurry patch finds the sharp
texture it came from. A contrastive term pulls the two views of one patch together, as retrieval will compare them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from patchscaler.data.pairs import PairDataset, PairSettings
from patchscaler.data.pictures import PicturePool, PictureSet
from patchscaler.models.latents import encode_pixels, latent_channels, restorer_input
from patchscaler.models.texture import ReferenceTextureMemory, TextureClassifier, farthest_points
from patchscaler.training.autoencoder import CropDataset
from patchscaler.training.frozen import load_autoencoder, load_frozen, load_restorer
from patchscaler.training.perceptual import EMBEDDING, EfficientNetFeatures
from patchscaler.training.settings import RunSettings


@dataclass(frozen=True)
class TextureSettings:
    """One run of the texture classifier; `restorer`: folder of the trained GRM, pairs.crop: the patch in pixels."""

    run: RunSettings
    pictures: PictureSet
    autoencoder: str
    restorer: str
    model: dict[str, Any] = field(default_factory=dict)
    pairs: PairSettings = field(default_factory=lambda: PairSettings(crop=128, draws=1))
    contrast_weight: float = 0.1
    temperature: float = 0.1


class TextureTask:
    def __init__(self, settings: TextureSettings) -> None:
        self.settings = settings
        self.autoencoder = load_autoencoder(settings.autoencoder)
        self.restorer = load_restorer(settings.restorer)
        self.teacher = EfficientNetFeatures()
        torch.manual_seed(settings.run.seed)
        self.network: nn.Module = TextureClassifier(
            latent_channels=latent_channels(self.autoencoder), targets=EMBEDDING, **settings.model
        ).to(memory_format=torch.channels_last)
        self._dataset = PairDataset(settings.pictures, settings.pairs, settings.run.seed)
        batch = [self._dataset[2**30 + i] for i in range(256)]
        seen = torch.cat([self.teacher.embedding(s["hr"][None]) for s in batch])
        self._mean, self._std = seen.mean(dim=0), seen.std(dim=0) + 1e-3
        self.frozen = [self.autoencoder, self.restorer, self.teacher]
        self._held_out = {key: torch.stack([s[key] for s in batch]) for key in ("hr", "lr")}

    def dataset(self) -> Dataset:
        return self._dataset

    def _terms(self, network: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            device = batch["hr"].device
            target = (self.teacher.embedding(batch["hr"]) - self._mean.to(device)) / self._std.to(device)
            latents = encode_pixels(self.autoencoder, batch["hr"])
            coarse = self.restorer(restorer_input(self.restorer, self.autoencoder, batch["lr"])).latents
        vectors = network(torch.cat([latents, coarse]))
        predicted = self.network.predict(vectors).float()  # type: ignore[operator]
        sharp, blurred = vectors.chunk(2)
        scores = blurred @ sharp.T / self.settings.temperature
        return {
            "regression": F.mse_loss(predicted, target.repeat(2, 1)),
            "contrast": F.cross_entropy(scores, torch.arange(len(scores), device=scores.device)),
            "retrieved_first": (scores.argmax(dim=1) == torch.arange(len(scores), device=scores.device)).float().mean(),
        }

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


def build_memory(
    pictures: PictureSet,
    autoencoder_folder: str,
    classifier_folder: str,
    folder: str,
    size: int = 2000,
    candidates: int = 20_000,
    seed: int = 0,
    on_candidate: Callable[[int], None] | None = None,
) -> None:
    """Reference Texture Memory from a folder of pictures: `candidates` random patches, `size` of them by farthest-point
    sampling on values and keys, saved to `folder`.

    Choice: the distance is that of the keys plus that of the values' per-channel energy, each scaled to unit variance:
    values themselves differ by phase more than by texture.
    """
    autoencoder = load_autoencoder(autoencoder_folder)
    classifier = load_frozen(TextureClassifier, classifier_folder)
    crops = CropDataset(PicturePool(pictures), seed, 128)
    values, keys = [], []
    with torch.no_grad():
        for start in range(0, candidates, 50):
            batch = torch.stack([crops[i] for i in range(start, min(start + 50, candidates))])
            latents = encode_pixels(autoencoder, batch.float() / 255)
            values.append(latents.half())
            keys.append(classifier(latents))
            if on_candidate is not None:
                on_candidate(min(start + 50, candidates))
        all_values, all_keys = torch.cat(values), torch.cat(keys)
        energy = torch.stack([v.float().square().mean(dim=(1, 2)).clamp(min=1e-4).log() for v in all_values])
        points = torch.cat([all_keys / all_keys.std(), (energy - energy.mean(dim=0)) / energy.std(dim=0)], dim=1)
        chosen = farthest_points(points, size)
        memory = ReferenceTextureMemory(latent_channels(autoencoder), 16, all_keys.shape[1], size)
        memory.fill(all_values[chosen].float(), all_keys[chosen])
    memory.save_pretrained(folder)
