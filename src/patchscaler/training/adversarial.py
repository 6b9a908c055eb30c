"""A small patch discriminator on frozen features: its verdict costs almost nothing once the perceptual loss has them.

As in Projected GANs (Sauer et al., arXiv 2111.01007) the discriminator sees features of a pretrained network instead of
pixels, one head per depth: it needs no features of its own, so it is useful after a few hundred steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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
        length = (torch.linalg.vector_norm(features.float(), dim=1, keepdim=True).square() + 1e-6).sqrt()
        direction = features * (features.shape[1] ** 0.5 / length).to(features.dtype)
        described = torch.cat([direction, length.log().to(features.dtype)], dim=1)
        return self.layers(described.contiguous(memory_format=torch.channels_last))


class FeatureDiscriminator(nn.Module):
    """One head per feature map; the first, at full resolution, is read at every second place for its cost."""

    def __init__(self, channels: Sequence[int], width: int = 48) -> None:
        super().__init__()
        self.heads = nn.ModuleList(FeatureHead(count, width, 2 if i == 0 else 1) for i, count in enumerate(channels))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return [head(f) for head, f in zip(self.heads, features, strict=True)]

    def both(self, real: Sequence[Tensor], fake: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Logits of two batches of the same size in one pass."""
        logits = self(tuple(torch.cat(pair) for pair in zip(real, fake, strict=True)))
        return [part[: len(part) // 2] for part in logits], [part[len(part) // 2 :] for part in logits]


def discriminator_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Hinge loss, the mean over heads."""
    parts = [F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(parts).mean()


def generator_loss(fake: Sequence[Tensor]) -> Tensor:
    """What the generator lowers: minus the mean logit."""
    return -torch.stack([f.mean() for f in fake]).mean()


@dataclass
class Seen:
    """Batches that a discriminator has seen."""

    steps: int = 0

    def state_dict(self) -> dict[str, int]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.steps = int(state["steps"])


class Adversary:
    """A discriminator that learns along, a step a batch, and is listened to after the first `after` of them."""

    def __init__(self, discriminator: FeatureDiscriminator, rate: float, after: int) -> None:
        self.discriminator, self.after, self.seen = discriminator, after, Seen()
        self.optimizer = torch.optim.AdamW(discriminator.parameters(), lr=rate, betas=(0.0, 0.99), weight_decay=0.0)
        self.checkpointed = [discriminator, self.optimizer, self.seen]

    def __call__(self, fake: Sequence[Tensor], real: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The generator's loss on its features, after a step of the discriminator; figures for the log."""
        loss = discriminator_loss(*self.discriminator.both(real, [features.detach() for features in fake]))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._average_gradients()
        self.optimizer.step()
        self.seen.steps += 1
        self.discriminator.requires_grad_(False)
        adversarial = generator_loss(self.discriminator(fake))
        self.discriminator.requires_grad_(True)
        listened = float(self.seen.steps > self.after)
        return listened * adversarial, {"discriminator": loss.detach(), "adversarial": adversarial.detach()}

    def _average_gradients(self) -> None:
        """The loop averages the network's gradients over processes; the discriminator's are ours."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for parameter in self.discriminator.parameters():
                assert parameter.grad is not None
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= torch.distributed.get_world_size()
