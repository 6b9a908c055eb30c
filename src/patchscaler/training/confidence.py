"""Confidence in what the eye sees: the restorer's log error, learned anew from LPIPS instead of from squared latents.

By Eq. 1 a patch is hard where its latents are far from the truth: at edges, which the restorer draws well, and not in
fine texture that it leaves out. PGS then spends its steps where they change little. So the last row of the restorer's
last convolution, and nothing else of it, is trained on to tell the LPIPS (VGG16) of the coarse picture at each latent,

    exp(-s) d + s,  whose optimum for s is ln E[d].

Choice: ln d spans a third of the range of ln e. It is stretched to the mean and spread of the log error that it
replaces, so that thresholds on C = min(1, eta / e) keep their meaning. Patch-DiT reads the map too, and learned what it
means from squared error: its weights for it are changed by the straight line that tells the one from the other best.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from patchscaler.data.pairs import PairDataset, PairSettings
from patchscaler.data.pictures import PictureSet
from patchscaler.features.lpips import load_lpips
from patchscaler.models.autoencoder import STRIDE, DctAutoencoder
from patchscaler.models.latents import decode_latents
from patchscaler.models.patch_dit import PatchDiT
from patchscaler.models.restorer import ConvRestorer, soft_log_error
from patchscaler.training.common import load_frozen
from patchscaler.training.settings import RunSettings

_FIRST_HELD_OUT = 2**30  # index of pairs that no step sees
_CONSTANT = 1e-3  # a log error that varies less than this says nothing
_MEASURED = 16  # crops of which the features' means and spreads are taken


@dataclass(frozen=True)
class ConfidenceSettings:
    """One run; it begins from the parts in the folders named, and exports a restorer and a Patch-DiT that go together.

    features  folder of VGG16's convolutions; None: where they are installed
    crops     degraded crops whose features are kept in memory (0.3 MB each), drawn again and again
    held_out  further crops, for validation and for the two straight lines
    shift     added to the log error that Patch-DiT is told. Choice: -1, since where that says "hard" too often it
              invents texture (docs/training.md)
    prompt_limit  Patch-DiT's: above this mean log error of a patch, by the new map, it reads no texture prompt
    """

    run: RunSettings
    pictures: PictureSet
    autoencoder: str
    restorer: str
    patch_dit: str
    pairs: PairSettings = field(default_factory=PairSettings)
    features: str | None = None
    crops: int = 720
    held_out: int = 96
    shift: float = -1.0
    prompt_limit: float | None = -0.5


class Readout(nn.Module):
    """What `ConvRestorer.exit` reads, standardised, -> log of the expected LPIPS, by one convolution."""

    mean: Tensor
    std: Tensor

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", features.mean(dim=(0, 2, 3), keepdim=True))
        self.register_buffer("std", features.std(dim=(0, 2, 3), keepdim=True) + 1e-3)
        self.convolution = nn.Conv2d(features.shape[1], 1, 3)
        nn.init.zeros_(self.convolution.weight)
        nn.init.constant_(self.convolution.bias, -1.0)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """(n,4 width,h+2,w+2) -> (n,1,h,w)."""
        return soft_log_error(self.convolution((features - self.mean) / self.std))

    def folded(self, scale: float, offset: float) -> tuple[Tensor, Tensor]:
        """Weight (1,4 width,3,3) and bias (1,) for the features as they are, of scale * output + offset."""
        weight = scale * self.convolution.weight / self.std
        assert self.convolution.bias is not None
        return weight, scale * self.convolution.bias + offset - (weight * self.mean).sum()


class CoarseCrops(Dataset):
    """Sample `index` -> one of `count` crops: what the restorer's last layer reads, its log error, and the LPIPS."""

    def __init__(self, settings: ConfidenceSettings, restorer: ConvRestorer, autoencoder: DctAutoencoder) -> None:
        self.settings, self.restorer, self.autoencoder = settings, restorer, autoencoder
        self.pairs = PairDataset(settings.pictures, settings.pairs, settings.run.seed)
        self.lpips = load_lpips("vgg", settings.features).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._kept: dict[int, dict[str, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        number = int(np.random.default_rng([self.settings.run.seed, index]).integers(self.settings.crops))
        if number not in self._kept:
            self._kept[number] = self.crop(number)
        return {name: value.float() for name, value in self._kept[number].items()}

    @torch.no_grad()
    def crop(self, number: int) -> dict[str, Tensor]:
        """Of pair `number`, half precision: features (4 width,h+2,w+2), log_error and lpips (1,h,w)."""
        pair = {
            name: pixels[None].contiguous(memory_format=torch.channels_last)
            for name, pixels in self.pairs[number].items()
        }
        features = self.restorer.features(pair["lr"])
        restored = self.restorer.leave(features, pair["lr"])
        coarse = decode_latents(self.autoencoder, restored.latents).clamp(0, 1)
        taps = [self.lpips(pixels.contiguous(memory_format=torch.channels_last)) for pixels in (coarse, pair["hr"])]
        distance = F.avg_pool2d(self.lpips.distance_map(*taps, *pair["hr"].shape[-2:]), STRIDE)
        parts = {"features": features, "log_error": restored.log_error, "lpips": distance}
        return {name: value[0].half() for name, value in parts.items()}


class ConfidenceTask:
    def __init__(self, settings: ConfidenceSettings) -> None:
        self.settings = settings
        self.restorer = load_frozen(ConvRestorer, settings.restorer).to(memory_format=torch.channels_last)
        self.patch_dit = load_frozen(PatchDiT, settings.patch_dit)
        autoencoder = load_frozen(DctAutoencoder, settings.autoencoder).to(memory_format=torch.channels_last)
        self._crops = CoarseCrops(settings, self.restorer, autoencoder)
        torch.manual_seed(settings.run.seed)
        measured = [self._crops.crop(number)["features"].float() for number in range(min(_MEASURED, settings.crops))]
        self.network: Any = Readout(torch.stack(measured))
        self._held_out: dict[str, Tensor] = {}

    def dataset(self) -> Dataset:
        return self._crops

    def loss(
        self, network: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        s = network(batch["features"])
        loss = (torch.exp(-s) * batch["lpips"] + s).mean()
        return loss, {"lpips": batch["lpips"].mean(), "expected": s.detach().exp().mean()}

    def validate(self) -> tuple[dict[str, float], Image.Image | None]:
        """Of held-out crops: the loss, and how well the log errors of now and before go along with ln LPIPS."""
        held_out = self._measured()
        s, d = self._expected(), held_out["lpips"]

        def correlation(log_error: Tensor) -> float:
            if log_error.std() < _CONSTANT:
                return 0.0
            return float(torch.corrcoef(torch.stack([log_error.flatten(), d.clamp(min=1e-3).log().flatten()]))[0, 1])

        figures = {"loss": float((torch.exp(-s) * d + s).mean()), "correlation": correlation(s)}
        return figures | {"correlation_before": correlation(held_out["log_error"])}, None

    @torch.no_grad()
    def export(self, folder: Path) -> None:
        held_out = self._measured()
        before, now = held_out["log_error"], self._expected()
        # A log error that was never trained has no spread to keep.
        scale = float(before.std() / now.std()) if before.std() > _CONSTANT < now.std() else 1.0
        weight, bias = (v.cpu() for v in self.network.folded(scale, float(before.mean() - scale * now.mean())))
        told = soft_log_error(F.conv2d(held_out["features"], weight, bias))
        covariance = ((told - told.mean()) * (before - before.mean())).mean()
        slope = float(covariance / told.var(unbiased=False).clamp(min=_CONSTANT**2))
        offset = float(before.mean() - slope * told.mean()) + self.settings.shift
        restorer = load_frozen(ConvRestorer, self.settings.restorer)
        restorer.exit.weight[-1:], restorer.exit.bias[-1:] = weight, bias
        restorer.save_pretrained(folder / "restorer")
        patch_dit = load_frozen(PatchDiT, self.settings.patch_dit)
        read_line(patch_dit, slope, offset)
        patch_dit.register_to_config(prompt_limit=self.settings.prompt_limit)
        patch_dit.save_pretrained(folder / "patch_dit")

    def _expected(self) -> Tensor:
        """The network's output for the held-out crops."""
        return self.network(self._measured()["features"].to(self.network.mean.device)).cpu()

    def _measured(self) -> dict[str, Tensor]:
        if not self._held_out:
            crops = [self._crops.crop(_FIRST_HELD_OUT + number) for number in range(self.settings.held_out)]
            self._held_out = {name: torch.stack([crop[name].float() for crop in crops]) for name in crops[0]}
        return self._held_out


@torch.no_grad()
def read_line(patch_dit: PatchDiT, slope: float, offset: float) -> None:
    """Patch-DiT takes log errors s as it took slope * s + offset before."""
    own = patch_dit.entry.weight[:, -(patch_dit.patch**2) :]  # the last channel of each token is the log error's
    patch_dit.entry.bias += offset * own.sum(dim=1)
    own *= slope
