"""Training of Patch-DiT and its texture encoder on cached latents, by Eq. 6 and 7, with an optional loss in pixels.

Each sample gets a uniform time step. A share of them starts as inference does: x_t is noised from a point between x0
and the coarse y0 rather than from x0 itself. A share of each batch is also decoded, and its predicted x0 compared with
the truth in pixels and in pretrained features: squared error in latents alone makes texture that is right on average
and visible nowhere.

The restorer stays as it is, or learns along by Eq. 1 for the first `restorer_steps`, as the paper's iterations count.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

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
from patchscaler.models.latents import decode_latents, encode_pixels, latent_channels, restorer_input
from patchscaler.models.patch_dit import TEXT_ENCODER, PatchDiT
from patchscaler.models.restorer import Restoration, restoration_loss
from patchscaler.models.text_prompt import token_width
from patchscaler.models.texture import ReferenceTextureMemory, TextureClassifier, TextureEncoder
from patchscaler.pgs.groups import GroupConfig
from patchscaler.pgs.schedule import TRAIN_STEPS, make_scheduler
from patchscaler.training.cache import CacheSettings
from patchscaler.training.frozen import load_autoencoder, load_frozen, load_restorer
from patchscaler.training.latents import PatchDataset, latent_cache, random_patches
from patchscaler.training.perceptual import PerceptualLoss
from patchscaler.training.published import begin_patch_dit, load_transformer
from patchscaler.training.restorer import build_restorer
from patchscaler.training.sampling import compare, model_of
from patchscaler.training.settings import RunSettings
from patchscaler.training.validation import ConditionedPair, conditioned_pairs, sheet


@dataclass(frozen=True)
class PatchDiTSettings:
    """One Patch-DiT run on the frozen parts in the folders named.

    model             arguments of PatchDiT; `prompt` is among them
    classifier, memory, encoder  of the prompt "texture": folders, and arguments of TextureEncoder
    hard_share        see PatchDataset
    coarse_share      share of samples noised from between x0 and y0
    prompt_dropout    share of steps without prompt, so that the network also works without one
    snr_gamma         weight min(SNR, gamma) / gamma of the squared error (min-SNR for x0); 0: uniform
    decode_share      share of a batch that is decoded; pixel_weight, perceptual_weight: of its losses
    warm_start        what to begin from instead of from nothing: an exported folder, with patch_dit/ in it; or that
                      of a PixArt or DiT transformer of diffusers, of which the layers that fit are taken
    restorer          folder of the trained GRM; None: a new one of [restorer_model], as [model] of a restorer's run
    restorer_steps    so many steps the restorer learns along, with uncertainty_weight as lambda of Eq. 1, on the crops
                      as they come (cache.count = 0); Patch-DiT's loss doesn't reach it
    validation_count  centre crops, an equal share of them under each degradation of pairs.mixture
    """

    run: RunSettings
    pictures: PictureSet
    autoencoder: str
    validation: str
    classifier: str | None = None
    memory: str | None = None
    restorer: str | None = None
    restorer_model: dict[str, Any] = field(default_factory=dict)
    restorer_steps: int = 0
    uncertainty_weight: float = 0.5
    model: dict[str, Any] = field(default_factory=dict)
    encoder: dict[str, Any] = field(default_factory=dict)
    pairs: PairSettings = field(default_factory=lambda: PairSettings(crop=256))
    cache: CacheSettings = field(default_factory=CacheSettings)
    hard_share: float = 0.5
    coarse_share: float = 0.5
    prompt_dropout: float = 0.1
    snr_gamma: float = 0.0
    decode_share: float = 0.25
    pixel_weight: float = 1.0
    perceptual_weight: float = 0.2
    warm_start: str | None = None
    validation_count: int = 8


class PromptedDenoiser(nn.Module):
    """Patch-DiT, its texture encoder if it has one, the restorer where it learns along: what is trained together."""

    def __init__(self, patch_dit: PatchDiT, encoder: TextureEncoder | None, restorer: Any = None) -> None:
        super().__init__()
        self.patch_dit, self.encoder, self.restorer = patch_dit, encoder, restorer

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        coarse: Tensor,
        log_error: Tensor,
        prompt: Sequence[Tensor] | None,
        small: Tensor | None = None,
    ) -> tuple[Tensor, Restoration | None]:
        """Patch-DiT's prediction, and what the restorer makes of its input `small`: both in one pass, as gradients that
        are averaged over processes ask for. prompt: by `Model.look_up`."""
        texture = None
        if prompt is not None:
            texture = self.patch_dit.texture_cache(prompt[0] if self.encoder is None else self.encoder(*prompt))
        restored = None if small is None else self.restorer(small)
        return self.patch_dit(x_t, t, coarse, log_error, texture), restored


class FrozenParts(NamedTuple):
    """What Patch-DiT is trained on; classifier and memory: of the prompt "texture"."""

    autoencoder: Any
    restorer: Any
    classifier: TextureClassifier | None
    memory: ReferenceTextureMemory | None


def load_parts(settings: PatchDiTSettings) -> FrozenParts:
    """From the folders that the settings name. Raises WeightsError."""
    autoencoder = load_autoencoder(settings.autoencoder)
    if settings.restorer is None:
        torch.manual_seed(settings.run.seed)
        restorer = build_restorer(settings.restorer_model, autoencoder)
    else:
        restorer = load_restorer(settings.restorer)
    if settings.model.get("prompt", "texture") != "texture":
        return FrozenParts(autoencoder, restorer, None, None)
    if settings.classifier is None or settings.memory is None:
        raise ConfigError('prompt = "texture" needs classifier and memory: name their folders')
    classifier = load_frozen(TextureClassifier, settings.classifier)
    return FrozenParts(autoencoder, restorer, classifier, load_frozen(ReferenceTextureMemory, settings.memory))


class PatchDiTTask:
    skips = True  # the texture encoder, in steps without a prompt; the restorer, after its own
    step = 0

    def __init__(self, settings: PatchDiTSettings, parts: FrozenParts | None = None) -> None:
        """parts: instead of those in the settings' folders, for `training/estimate.py`."""
        self.settings = settings
        if parts is None:
            picture_files(Path(settings.validation))  # a missing folder fails now, not at the first validation
            if settings.restorer is None and not settings.restorer_steps:
                raise ConfigError("name the trained restorer's folder, or set restorer_steps for one that learns along")
        if settings.restorer_steps and settings.cache.count:
            raise ConfigError("a restorer that learns along needs new crops at every step: set cache.count = 0")
        parts = parts or load_parts(settings)
        self.autoencoder = parts.autoencoder
        self.alphas = make_scheduler().alphas_cumprod
        self.perceptual = PerceptualLoss() if settings.decode_share and settings.perceptual_weight else None
        torch.manual_seed(settings.run.seed)
        channels = latent_channels(self.autoencoder)
        start, textured = Path(settings.warm_start or ""), parts.memory is not None
        if settings.warm_start is None or (start / "config.json").exists():
            encoder = TextureEncoder(latent_channels=channels, **settings.encoder) if textured else None
            own = dict(settings.model)
            if encoder is not None:
                own["texture_width"] = encoder.config["width"]
            elif own["prompt"] == "text":
                own["texture_width"] = token_width(own.get("text_encoder", TEXT_ENCODER))
            patch_dit = PatchDiT(latent_channels=channels, **own)
            if settings.warm_start is not None:
                begin_patch_dit(patch_dit, load_transformer(start))
        else:
            encoder = TextureEncoder.from_pretrained(start / "texture_encoder") if textured else None
            patch_dit = PatchDiT.from_pretrained(start / "patch_dit")
        if (found := patch_dit.config["prompt"]) != (asked := settings.model.get("prompt", "texture")):
            raise ConfigError(f'warm_start has prompt "{found}", model.prompt is "{asked}": they must be the same')
        self.prompted = found != "none"
        along = settings.restorer_steps > 0
        self.network = PromptedDenoiser(patch_dit, encoder, parts.restorer if along else None)
        if along:
            parts.restorer.requires_grad_(True).train()
        self.model = model_of(
            autoencoder=parts.autoencoder,
            restorer=parts.restorer,
            patch_dit=patch_dit,
            texture_classifier=parts.classifier,
            texture_encoder=encoder,
            texture_memory=parts.memory,
        )
        self.frozen = [part for part in (*parts, self.perceptual) if part is not None]
        if along:
            self.frozen.remove(parts.restorer)
        self.patch = int(patch_dit.config["sample_size"])
        self.prediction_type = patch_dit.config["prediction_type"]
        self._pairs: list[ConditionedPair] | None = None

    def dataset(self) -> Dataset:
        settings = self.settings
        if not settings.cache.count:
            return PairDataset(settings.pictures, settings.pairs, settings.run.seed)
        cache = latent_cache(settings.cache, settings.pictures, settings.pairs, self.model.grm)
        return PatchDataset(cache, self.patch, settings.run.seed, settings.hard_share)

    def loss(
        self, network: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        settings, crops = self.settings, batch
        with torch.no_grad():
            if "lr" in batch:
                restored = self.model.grm(batch["lr"])
                batch = random_patches(
                    batch, restored.latents, restored.log_error, self.patch, settings.hard_share, generator
                )
            coarse, hr = batch["coarse"], encode_pixels(self.autoencoder, batch["pixels"])
        count = len(hr)
        t = torch.randint(TRAIN_STEPS, (count,), generator=generator).to(hr.device)
        noise = torch.randn(hr.shape, generator=generator).to(hr.device)
        blend = torch.rand(count, generator=generator)
        blend = blend * (torch.rand(count, generator=generator) < settings.coarse_share)
        alpha = self.alphas.to(hr.device)[t][:, None, None, None]
        start = hr + blend.to(hr.device)[:, None, None, None] * (coarse - hr)
        x_t = alpha.sqrt() * start + (1 - alpha).sqrt() * noise  # Eq. 6
        prompt = None
        if float(torch.rand((), generator=generator)) >= settings.prompt_dropout and self.prompted:
            with torch.no_grad():
                prompt = self.model.look_up(coarse)
        small = None
        if self.step < settings.restorer_steps:
            with torch.no_grad():
                small = restorer_input(self.model.restorer, self.autoencoder, crops["lr"])
        prediction, restoration = network(x_t, t, coarse, batch["log_error"], prompt, small)
        x0, target = self._clean_and_target(prediction, x_t, hr, noise, alpha)
        error = (prediction - target).square().mean(dim=(1, 2, 3))
        snr = (alpha / (1 - alpha)).flatten()
        weight = snr.clamp(max=settings.snr_gamma) / settings.snr_gamma if settings.snr_gamma else torch.ones_like(snr)
        loss = (weight * error).mean()
        figures = {
            "mse": error.detach().mean(),
            "mse_coarse": (coarse - hr).square().mean(),
            "mse_late": _mean_where(error.detach(), t < 400),
        }
        decoded = round(settings.decode_share * count)
        if decoded:
            pixel, perceptual = self._pixel_losses(x0[:decoded], hr[:decoded])
            loss = loss + settings.pixel_weight * pixel + settings.perceptual_weight * perceptual
            figures |= {"pixel": pixel.detach(), "perceptual": perceptual.detach()}
        if restoration is not None:
            with torch.no_grad():
                whole = encode_pixels(self.autoencoder, crops["hr"])
            eta = float(self.model.restorer.eta)
            equation, _ = restoration_loss(restoration, whole, eta, settings.uncertainty_weight)  # Eq. 1
            loss, figures = loss + equation, figures | {"eq1": equation.detach()}
        return loss, figures

    def _clean_and_target(
        self, prediction: Tensor, x_t: Tensor, hr: Tensor, noise: Tensor, alpha: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The x0 that a prediction means, and what the prediction should have been."""
        if self.prediction_type == "sample":
            return prediction, hr
        # The noise that leads to x_t from the true x0, also where x_t was not made from it.
        true_noise = (x_t - alpha.sqrt() * hr) / (1 - alpha).sqrt()
        if self.prediction_type == "epsilon":
            return (x_t - (1 - alpha).sqrt() * prediction) / alpha.sqrt(), true_noise
        return alpha.sqrt() * x_t - (1 - alpha).sqrt() * prediction, alpha.sqrt() * true_noise - (1 - alpha).sqrt() * hr

    def _pixel_losses(self, x0: Tensor, hr: Tensor) -> tuple[Tensor, Tensor]:
        """L1 and feature distance of decoded latents; the truth is decoded too, so its error doesn't count."""
        layout = torch.channels_last
        with torch.no_grad():
            truth = decode_latents(self.autoencoder, hr.contiguous(memory_format=layout))
        pixels = decode_latents(self.autoencoder, x0.contiguous(memory_format=layout))
        distance = self.perceptual(pixels, truth) if self.perceptual is not None else pixels.new_zeros(())
        return F.l1_loss(pixels, truth), distance

    def validate(self) -> tuple[dict[str, float], Image.Image | None]:
        if self._pairs is None:
            self._pairs = conditioned_pairs(self.settings, side=256)
        measures: dict[str, Callable[..., Any]] = {
            "psnr_y": psnr_y,
            "perceptual": self.perceptual or PerceptualLoss().to(next(self.network.parameters()).device),
        }
        figures, rows = compare(self.model, self._pairs, GroupConfig(), measures)
        return figures, sheet(rows)

    def export(self, folder: Path) -> None:
        self.network.patch_dit.save_pretrained(folder / "patch_dit")
        if self.network.encoder is not None:
            self.network.encoder.save_pretrained(folder / "texture_encoder")
        if self.network.restorer is not None:
            self.network.restorer.save_pretrained(folder / "restorer")


def _mean_where(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum().clamp(min=1)
