"""Confidence in what the eye sees: the restorer's log error, learned anew from LPIPS instead of from squared latents.

By Eq. 1 a patch is hard where its latents are far from the truth: at edges, which the restorer draws well, and not in
fine texture that it leaves out. PGS then spends its steps where they change little. So the last row of the restorer's
last convolution, and nothing else of it, is trained on to tell the LPIPS (VGG16) of the coarse picture at each latent,

    exp(-s) d + s,  whose optimum for s is ln E[d].

Choice: ln d spans a third of the range of ln e. It is stretched to the mean and spread of the log error that it
replaces, so that thresholds on C = min(1, eta / e) keep their meaning. Patch-DiT reads the map too, and learned what it
means from squared error: its weights for it are changed by the straight line that tells the one from the other best.

Where the GRM has a second restorer, the same for the fused picture, and the gate: how much lower than the first
restorer's the fused picture's LPIPS is. All three are read out of features that stay as they are.
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
from patchscaler.errors import ConfigError
from patchscaler.imaging.geometry import STRIDE
from patchscaler.metrics.lpips import load_lpips
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.models.fusion import Fusion
from patchscaler.models.latents import decode_latents
from patchscaler.models.patch_dit import PatchDiT
from patchscaler.models.restorer import ConvRestorer, soft_log_error
from patchscaler.models.rrdb import RrdbRestorer
from patchscaler.training.frozen import load_frozen
from patchscaler.training.readouts import Readouts
from patchscaler.training.settings import RunSettings

_FIRST_HELD_OUT = 2**30  # index of pairs that no step sees
_CONSTANT = 1e-3  # a log error that varies less than this says nothing
_GATE_WEIGHT = 30.0
_MEASURED = 16  # crops of which the features' means and spreads are taken


@dataclass(frozen=True)
class ConfidenceSettings:
    """One run; it begins from the parts in the folders named, and exports those that go together: restorer, Patch-DiT
    and fusion.

    second_restorer, fusion  both or none
    features  folder of VGG16's convolutions; None: where they are installed
    precision  of the networks that make the crops: bf16 or fp32
    crops     degraded crops whose features are kept in memory (0.3 MB each), drawn again and again
    held_out  further crops, for validation and for the two straight lines
    shift     added to the log error that Patch-DiT is told. Choice: -1, since where that says "hard" too often it
              invents texture (docs/lab/confidence.md)
    prompt_limit  Patch-DiT's: above this mean log error of a patch, by the new map, it reads no texture prompt
    """

    run: RunSettings
    pictures: PictureSet
    autoencoder: str
    restorer: str
    patch_dit: str
    second_restorer: str | None = None
    fusion: str | None = None
    pairs: PairSettings = field(default_factory=PairSettings)
    features: str | None = None
    precision: str = "bf16"
    crops: int = 720
    held_out: int = 96
    shift: float = -1.0
    prompt_limit: float | None = -0.5


class CoarseCrops(Dataset):
    """Sample `index` -> one of `count` crops, see `crop`."""

    def __init__(
        self,
        settings: ConfidenceSettings,
        autoencoder: DctAutoencoder,
        restorer: ConvRestorer,
        second: RrdbRestorer | None = None,
        fusion: Fusion | None = None,
    ) -> None:
        self.settings, self.autoencoder = settings, autoencoder
        self.restorer, self.second, self.fusion = restorer, second, fusion
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
        """Of pair `number`, half precision: features (4 width,h+2,w+2), log_error and lpips (1,h,w) of the first
        restorer; where there is a second one, fused_features (f,h,w) and fused_lpips, too."""
        pair = {
            name: pixels[None].contiguous(memory_format=torch.channels_last)
            for name, pixels in self.pairs[number].items()
        }
        with torch.autocast(pair["lr"].device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
            return {name: value[0].half() for name, value in self._parts(pair).items()}

    def _parts(self, pair: dict[str, Tensor]) -> dict[str, Tensor]:
        truth = self.lpips(pair["hr"])
        restored, features = self.restorer(pair["lr"], with_features=True)
        parts = {"features": features, "log_error": restored.log_error}
        parts["lpips"] = self._lpips(restored.latents, truth)
        if self.second is not None and self.fusion is not None:
            opinion = self.second(pair["lr"])
            parts["fused_features"] = self.fusion.features(features, restored, opinion)
            parts["fused_lpips"] = self._lpips(self.fusion(features, restored, opinion).latents, truth)
        return parts

    def _lpips(self, latents: Tensor, truth: list[Tensor]) -> Tensor:
        """Its mean over each latent, (n,1,h,w)."""
        pixels = decode_latents(self.autoencoder, latents).clamp(0, 1).contiguous(memory_format=torch.channels_last)
        return F.avg_pool2d(self.lpips.distance_map(self.lpips(pixels), truth, *pixels.shape[-2:]), STRIDE)


class ConfidenceTask:
    def __init__(self, settings: ConfidenceSettings) -> None:
        self.settings = settings
        restorer = load_frozen(ConvRestorer, settings.restorer).to(memory_format=torch.channels_last)
        autoencoder = load_frozen(DctAutoencoder, settings.autoencoder).to(memory_format=torch.channels_last)
        second: list[Any] = []
        if settings.second_restorer and settings.fusion:
            second = [load_frozen(RrdbRestorer, settings.second_restorer), load_frozen(Fusion, settings.fusion)]
        elif settings.second_restorer or settings.fusion:
            raise ConfigError("second_restorer and fusion go together: name both folders or none")
        self._crops = CoarseCrops(settings, autoencoder, restorer, *second)
        torch.manual_seed(settings.run.seed)
        measured = [self._crops.crop(number) for number in range(min(_MEASURED, settings.crops))]
        self.network: Any = Readouts({name: torch.stack([c[name].float() for c in measured]) for name in measured[0]})
        self._held_out: dict[str, Tensor] = {}

    def dataset(self) -> Dataset:
        return self._crops

    def loss(
        self, network: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return self._loss(network(batch), batch)

    def _loss(self, read: dict[str, Tensor], crops: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        loss, figures = self._expected(read["first"], crops["lpips"]), {}
        figures["first"] = loss.detach()
        if "gain" in read:
            fused = self._expected(read["fused"], crops["fused_lpips"])
            gap = self._mean(read["gain"]) - self._mean(crops["lpips"] - crops["fused_lpips"])
            gate = gap.square().mean()
            # The gate is weighed up: its squares are those of hundredths.
            loss = loss + fused + _GATE_WEIGHT * gate
            figures |= {"fused": fused.detach(), "gate": gate.detach()}
        return loss, figures

    @staticmethod
    def _expected(s: Tensor, distance: Tensor) -> Tensor:
        """Lowest where s = ln E[distance]."""
        return (torch.exp(-s) * distance + s).mean()

    def _mean(self, gain: Tensor) -> Tensor:
        """Over the neighbourhood that decides (`Fusion.shares`)."""
        assert self._crops.fusion is not None
        return self._crops.fusion.neighbourhood(gain)

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, float], Image.Image | None]:
        """Of held-out crops: the losses; how well the log errors of now and before go along with ln LPIPS; and how well
        the gate's gain does with the real one."""
        held_out, read = self._measured(), self._read()
        loss, figures = self._loss(read, held_out)
        found = {"loss": float(loss)} | {name: float(value) for name, value in figures.items()}
        for name, log_error, distance in (
            ("correlation", read["first"], held_out["lpips"]),
            ("correlation_before", held_out["log_error"], held_out["lpips"]),
            ("correlation_fused", read.get("fused"), held_out.get("fused_lpips")),
        ):
            if log_error is not None and distance is not None:
                found[name] = _correlation(log_error, distance.clamp(min=1e-3).log())
        if "gain" in read:
            real = self._mean(held_out["lpips"] - held_out["fused_lpips"])
            found |= {"gain": float(real.mean()), "correlation_gain": _correlation(self._mean(read["gain"]), real)}
        return found, None

    @torch.no_grad()
    def export(self, folder: Path) -> None:
        held_out, settings = self._measured(), self.settings
        before, now = held_out["log_error"], self._read()["first"]
        # A log error that was never trained has no spread to keep.
        scale = float(before.std() / now.std()) if before.std() > _CONSTANT < now.std() else 1.0
        weight, bias = (v.cpu() for v in self.network.first.folded(scale, float(before.mean() - scale * now.mean())))
        told = soft_log_error(F.conv2d(held_out["features"], weight, bias))
        covariance = ((told - told.mean()) * (before - before.mean())).mean()
        slope = float(covariance / told.var(unbiased=False).clamp(min=_CONSTANT**2))
        offset = float(before.mean() - slope * told.mean()) + settings.shift
        restorer = load_frozen(ConvRestorer, settings.restorer)
        restorer.exit.weight[-1:], restorer.exit.bias[-1:] = weight, bias
        restorer.save_pretrained(folder / "restorer")
        patch_dit = load_frozen(PatchDiT, settings.patch_dit)
        read_line(patch_dit, slope, offset)
        patch_dit.register_to_config(prompt_limit=settings.prompt_limit)
        patch_dit.save_pretrained(folder / "patch_dit")
        if settings.fusion:
            self._fusion(scale).save_pretrained(folder / "fusion")

    def _fusion(self, scale: float) -> Fusion:
        """With the trained row of its last convolution, stretched like the first restorer's, and the gate."""
        fusion, network = load_frozen(Fusion, str(self.settings.fusion)), self.network.cpu()
        fusion.exit.weight[-1:], fusion.exit.bias[-1:] = network.fused.folded(scale)
        fusion.gate_entry.weight[:], fusion.gate_entry.bias[:] = network.gain.folded()
        fusion.gate_exit.load_state_dict(network.gain.last.state_dict())
        return fusion

    def _read(self) -> dict[str, Tensor]:
        """The network's outputs for the held-out crops."""
        device = self.network.first.mean.device
        return {
            name: value.cpu()
            for name, value in self.network({n: v.to(device) for n, v in self._measured().items()}).items()
        }

    def _measured(self) -> dict[str, Tensor]:
        if not self._held_out:
            crops = [self._crops.crop(_FIRST_HELD_OUT + number) for number in range(self.settings.held_out)]
            self._held_out = {name: torch.stack([crop[name].float() for crop in crops]) for name in crops[0]}
        return self._held_out


def _correlation(a: Tensor, b: Tensor) -> float:
    """0 where one of them hardly varies."""
    if min(a.std(), b.std()) < _CONSTANT:
        return 0.0
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


@torch.no_grad()
def read_line(patch_dit: PatchDiT, slope: float, offset: float) -> None:
    """Patch-DiT takes log errors s as it took slope * s + offset before."""
    own = patch_dit.entry.weight[:, -(patch_dit.patch**2) :]  # the last channel of each token is the log error's
    patch_dit.entry.bias += offset * own.sum(dim=1)
    own *= slope
