"""A small patch discriminator on frozen features: its verdict costs almost nothing once the perceptual loss has them.

As in Projected GANs (Sauer et al., arXiv 2111.01007) the discriminator sees features of a pretrained network instead of
pixels, one head per depth: it needs no features of its own, so it is useful after a few hundred steps.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class FeatureHead(nn.Module):
    """Logits for places of one feature map, each from a 7x7 neighbourhood of it; `every`: rows and columns it reads."""

    def __init__(self, channels: int, width: int, every: int) -> None:
        super().__init__()
        self.every = every
        self.layers = nn.Sequential(
            spectral_norm(nn.Conv2d(channels + 1, width, 1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(width, width, 3, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(width, width, 3, padding=1)),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 1, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        if self.every > 1:
            features = features[..., :: self.every, :: self.every]
        # Direction and length apart: contrast is seen, but doesn't swamp the rest.
        length = (features.float().square().sum(dim=1, keepdim=True) + 1e-6).sqrt()
        described = torch.cat([features / length * features.shape[1] ** 0.5, length.log()], dim=1)
        return self.layers(described.contiguous(memory_format=torch.channels_last))


class FeatureDiscriminator(nn.Module):
    """One head per feature map; the first, at full resolution, is read at every second place for its cost."""

    def __init__(self, channels: Sequence[int], width: int = 48) -> None:
        super().__init__()
        self.heads = nn.ModuleList(FeatureHead(count, width, 2 if i == 0 else 1) for i, count in enumerate(channels))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return [head(f) for head, f in zip(self.heads, features, strict=True)]


def discriminator_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Hinge loss, the mean over heads."""
    parts = [F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(parts).mean()


def generator_loss(fake: Sequence[Tensor]) -> Tensor:
    """What the generator lowers: minus the mean logit."""
    return -torch.stack([f.mean() for f in fake]).mean()
