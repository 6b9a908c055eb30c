"""Training of the Global Restoration Module by Eq. 1 on degraded crops."""

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
from patchscaler.data.reading import picture_files
from patchscaler.errors import ConfigError
from patchscaler.metrics.fidelity import psnr_y
from patchscaler.metrics.lpips import Lpips, load_lpips
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.models.base import ModelMixin
from patchscaler.models.latents import decode_latents, encode_pixels, latent_channels, restorer_input
from patchscaler.models.restorer import enlarged_skip, restoration_loss
from patchscaler.training.decoding import decode_square, pixel_square
from patchscaler.training.frozen import RESTORERS, load_autoencoder, load_restorer
from patchscaler.training.published import begin_swin, read_checkpoint, read_compact, restorer_from_compact
from patchscaler.training.settings import RunSettings
from patchscaler.training.validation import ConditionedPair, conditioned_pairs, mean_figures, sheet


@dataclass(frozen=True)
class RestorerSettings:
    """One restorer run.

    autoencoder        folder of the autoencoder whose latents are restored
    model              the restorer's config, and as `network` its class, ConvRestorer if it isn't named
    uncertainty_weight lambda of Eq. 1
    pixel_weight       of the L1 distance in pixels (inverse DCT alone): normalised latents count every frequency alike;
                       0 with other autoencoders, and so is perceptual_weight
    warm_start         what to begin from instead of from bicubic interpolation: folder of a restorer, or file of a
                       published network (training/published.py): a compact Real-ESRGAN, which brings its own [model];
                       or a SwinIR, of which a SwinRestorer takes what fits
    perceptual_weight  of LPIPS (VGG16) between decoded pictures, on a random square of perceptual_side latents; the
                       network's pixels and those of Eq. 1 stay what they are when it is 0
    features           folder of VGG16's convolutions; None: where they are installed
    validation         folder of validation pictures; validation_count of them are used
    """

    run: RunSettings
    pictures: PictureSet
    autoencoder: str
    validation: str
    model: dict[str, Any] = field(default_factory=dict)
    pairs: PairSettings = field(default_factory=PairSettings)
    uncertainty_weight: float = 0.5
    pixel_weight: float = 10.0
    warm_start: str | None = None
    perceptual_weight: float = 0.0
    perceptual_side: int = 12
    features: str | None = None
    validation_count: int = 12


class RestorerTask:
    def __init__(self, settings: RestorerSettings, autoencoder: Any = None) -> None:
        """autoencoder: instead of the one in the settings' folder, for `training/estimate.py`."""
        self.settings = settings
        if autoencoder is None:
            picture_files(Path(settings.validation))  # a missing folder fails now, not at the first validation
        self.autoencoder = autoencoder or load_autoencoder(settings.autoencoder)
        if (settings.pixel_weight or settings.perceptual_weight) and not isinstance(self.autoencoder, DctAutoencoder):
            raise ConfigError("pixel_weight and perceptual_weight go with DctAutoencoder alone; set both to 0")
        torch.manual_seed(settings.run.seed)
        if settings.warm_start is None:
            restorer: Any = build_restorer(settings.model, self.autoencoder)
        else:
            restorer = self._begun(Path(settings.warm_start))
        self.lpips: Lpips | None = None
        if settings.perceptual_weight:
            self.lpips = load_lpips("vgg", settings.features).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network: Any = restorer.to(memory_format=torch.channels_last)
        self.frozen = [part for part in (self.autoencoder, self.lpips) if part is not None]
        self._pairs: list[ConditionedPair] | None = None

    def _begun(self, start: Path) -> Any:
        """The restorer that `warm_start` names, or that begins with its weights."""
        model = self.settings.model
        if start.is_file() and model.get("network") == "SwinRestorer":
            restorer: Any = build_restorer(model, self.autoencoder)
            begin_swin(restorer, read_checkpoint(start))
            return restorer
        if model:
            raise ConfigError("warm_start brings its own model settings; leave [model] out")
        if start.is_file():
            return restorer_from_compact(read_compact(start), self.autoencoder)
        return load_restorer(str(start)).requires_grad_(True).train()

    def dataset(self) -> Dataset:
        return PairDataset(self.settings.pictures, self.settings.pairs, self.settings.run.seed)

    def loss(
        self, network: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            target = encode_pixels(self.autoencoder, batch["hr"])
            small = restorer_input(self.network, self.autoencoder, batch["lr"])
        restored = network(small)
        settings, eta = self.settings, float(self.network.eta)
        loss, figures = restoration_loss(restored, target, eta, settings.uncertainty_weight)
        if self.settings.pixel_weight:
            inverse = self.autoencoder.inverse_dct
            pixel = (inverse(restored.latents) - inverse(target)).abs().mean()
            loss, figures = loss + self.settings.pixel_weight * pixel, figures | {"pixel": pixel.detach()}
        if self.lpips is None:
            return loss, figures
        perceptual = self._perceptual(restored.latents, batch["hr"], generator)
        return loss + self.settings.perceptual_weight * perceptual, figures | {"perceptual": perceptual.detach()}

    def _perceptual(self, latents: Tensor, truth: Tensor, generator: torch.Generator) -> Tensor:
        assert self.lpips is not None
        side = min(self.settings.perceptual_side, *latents.shape[-2:])
        place = tuple(int(torch.randint(n - side + 1, (), generator=generator)) for n in latents.shape[-2:])
        decoded = decode_square(self.autoencoder, latents, place, side)  # type: ignore[arg-type]
        with torch.no_grad():
            wanted = self.lpips(pixel_square(truth, place, side))  # type: ignore[arg-type]
        return self.lpips.distance(self.lpips(decoded), wanted).mean()

    def validate(self) -> tuple[dict[str, float], Image.Image | None]:
        if self._pairs is None:
            self._pairs = conditioned_pairs(self.settings, side=256)
        found, rows = [], []
        device = next(self.network.parameters()).device
        for condition, pair in self._pairs:
            pair = {name: pixels.to(device) for name, pixels in pair.items()}
            target = encode_pixels(self.autoencoder, pair["hr"])
            restored = self.network(restorer_input(self.network, self.autoencoder, pair["lr"]))
            pixels = decode_latents(self.autoencoder, restored.latents).clamp(0, 1)
            bicubic = F.interpolate(pair["lr"], scale_factor=4, mode="bicubic", antialias=True).clamp(0, 1)
            error = (restored.latents - target).square().mean(dim=1, keepdim=True)
            figures = {
                "l1": (restored.latents - target).abs().mean(),
                "psnr_y": psnr_y(pixels, pair["hr"]),
                "psnr_y_interpolated": psnr_y(bicubic, pair["hr"]),
                "log_error_gap": (restored.log_error - error.clamp(min=1e-4).log()).abs().mean(),
            }
            found.append((condition, {name: float(value) for name, value in figures.items()}))
            confidence = (-restored.log_error).sub(-4).div(8).clamp(0, 1)
            big = F.interpolate(confidence, scale_factor=8).expand(-1, 3, -1, -1)
            rows.append([bicubic, pixels, big, pair["hr"]])
        return mean_figures(found), sheet(rows[:: max(1, len(rows) // 6)][:6])

    def export(self, folder: Path) -> None:
        self.network.save_pretrained(folder)


def build_restorer(model: dict[str, Any], autoencoder: Any) -> ModelMixin:
    """The untrained restorer that [model] asks for. Raises ConfigError for an unknown network."""
    config = dict(model)
    name = config.pop("network", "ConvRestorer")
    if name not in RESTORERS:
        raise ConfigError(f"model.network {name}: choose {' or '.join(RESTORERS)}")
    cls: Any = RESTORERS[name]
    restorer: Any = cls(latent_channels=latent_channels(autoencoder), **config)
    # Begins as bicubic interpolation, where encoding is linear; a SwinRestorer returns its input, which is that.
    if name == "ConvRestorer" and isinstance(autoencoder, DctAutoencoder):
        weight, bias = enlarged_skip(autoencoder.encode, "bicubic")
        restorer.skip.weight.data.copy_(weight)
        restorer.skip.bias.data.copy_(bias)
    return restorer
