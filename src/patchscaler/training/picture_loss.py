"""Decoded squares against true ones: L1, LPIPS (VGG16) and a discriminator on the same features."""

from typing import Any

import torch
from torch import Tensor

from patchscaler.metrics.lpips import load_lpips
from patchscaler.training.adversarial import Adversary, FeatureDiscriminator


class PictureLoss:
    """The loss of the runs that decode; LPIPS (AlexNet) is none, it only judges.

    settings  with features, pixel_weight, perceptual_weight, adversarial_weight, adversarial_after, discriminator_rate
              and discriminator_width, as FinetuneSettings has them
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
        if settings.adversarial_weight:
            adversarial, own = self.adversary(got[:4], wanted[:4])
            loss, figures = loss + settings.adversarial_weight * adversarial, figures | own
        return loss, figures

    def judged(self, picture: Tensor, truth: Tensor) -> Tensor:
        """LPIPS (AlexNet)."""
        return self.alex.distance(self.alex(picture), self.alex(truth))
