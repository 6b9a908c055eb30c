"""Decoded squares against true ones: L1, LPIPS (VGG16), and textures and a discriminator on the same features."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from patchscaler.metrics.lpips import load_lpips
from patchscaler.training.adversarial import Adversary, FeatureDiscriminator

_WINDOW = 32  # pixels of a side of the windows in which textures are compared


class PictureLoss:
    """The loss of the runs that decode; LPIPS (AlexNet) is none, it only judges.

    settings  with features, pixel_weight, perceptual_weight, texture_weight, adversarial_weight, adversarial_after,
              discriminator_rate and discriminator_width, as FinetuneSettings has them
    """

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self.lpips = load_lpips("vgg", settings.features).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.alex = load_lpips("alex", settings.features)
        discriminator = FeatureDiscriminator(self.lpips.trunk.widths[:4], settings.discriminator_width)
        self.adversary = Adversary(discriminator, settings.discriminator_rate, settings.adversarial_after)
        self.checkpointed = self.adversary.checkpointed
        self.frozen = [self.lpips, self.alex]

    def __call__(self, decoded: Tensor, truth: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Of (n,3,side,side), RGB in [0,1]: the weighted sum, after the discriminator's step; figures for the log."""
        settings = self.settings
        with torch.no_grad():
            wanted = self.lpips.features(truth)
        got = self.lpips.features(decoded)
        pixel = (decoded - truth).abs().mean()
        perceptual = self.lpips.distance(self.lpips.unit(got), self.lpips.unit(wanted)).mean()
        loss = settings.pixel_weight * pixel + settings.perceptual_weight * perceptual
        figures = {"pixel": pixel.detach(), "perceptual": perceptual.detach()}
        if settings.texture_weight:
            texture = texture_distance(got, wanted)
            loss, figures = loss + settings.texture_weight * texture, figures | {"texture": texture.detach()}
        if settings.adversarial_weight:
            adversarial, own = self.adversary(got[:4], wanted[:4])
            loss, figures = loss + settings.adversarial_weight * adversarial, figures | own
        return loss, figures

    def judged(self, picture: Tensor, truth: Tensor) -> Tensor:
        """LPIPS (AlexNet)."""
        return self.alex.distance(self.alex(picture), self.alex(truth))


def texture_distance(got: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """How far apart the amounts of texture in two pictures are, in [0,1], by the taps (n,c,h,w) of a trunk: each
    channel's standard deviations in windows of 32 pixels, half overlapping, wherever in them something is.

    Like the texture term of DISTS (Ding et al., arXiv 2004.07728), with local deviations instead of means. A distance
    place by place is least for the mean of all textures that would do; this one asks for as much texture as there was.
    """
    parts = []
    for level, (a, b) in enumerate(zip(got, wanted, strict=True)):
        every = 2 if level == 0 else 1  # the largest tap takes as long as all others, and its neighbours are alike
        side = max(4, _WINDOW >> level) // every
        one, two = (_deviation(tap[..., ::every, ::every].float(), side) for tap in (a, b))
        floor = 0.1 * two.mean(dim=(0, 2, 3), keepdim=True) + 1e-6  # a channel that is silent has nothing to say
        parts.append(((one - two).square() / (one.square() + two.square() + floor.square())).mean())
    return torch.stack(parts).mean()


def _deviation(tap: Tensor, side: int) -> Tensor:
    side = min(side, *tap.shape[-2:])
    mean, square = (F.avg_pool2d(x, side, stride=max(1, side // 2)) for x in (tap, tap.square()))
    return ((square - mean.square()).clamp(min=0) + 1e-8).sqrt()
