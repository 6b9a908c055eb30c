"""Decode-space fine-tuning: Patch-DiT, texture encoder and decoder together, on what the few steps of inference make.

The restorer can learn along: its coarse latents then aren't cached but made anew, and what Patch-DiT makes of them, or
leaves as it is where a patch gets no steps, is compared as a picture through it, too.

Squared error in latents teaches a denoiser the average of all textures that would do. Here the last prediction is
decoded and compared as a picture: L1, LPIPS (VGG16) and a small discriminator on the same features. A sample takes the
way it takes at inference: noised from the coarse y0 at its own group's start (Eq. 6), some steps of DDIM without
gradients from a plan drawn at random, then the step that learns. A share is noised from the truth at a uniform time
instead, so that many steps stay right.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from patchscaler.data.pairs import PairDataset, PairSettings
from patchscaler.data.pictures import PictureSet
from patchscaler.data.reading import picture_files
from patchscaler.errors import ConfigError
from patchscaler.imaging.geometry import STRIDE
from patchscaler.metrics.fidelity import psnr_y
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.models.fusion import Fusion
from patchscaler.models.model import channels_last
from patchscaler.models.patch_dit import PatchDiT, TextureCache
from patchscaler.models.restorer import ConvRestorer, confidence_from, restoration_loss
from patchscaler.models.rrdb import RrdbRestorer
from patchscaler.models.texture import ReferenceTextureMemory, TextureClassifier, TextureEncoder
from patchscaler.pgs.groups import GroupConfig, assign_groups, plan
from patchscaler.pgs.sampling import ddim_step
from patchscaler.pgs.schedule import TRAIN_STEPS, make_scheduler
from patchscaler.training.cache import CacheSettings
from patchscaler.training.decoding import DecodingDenoiser, Square, grid_energy, pixel_square
from patchscaler.training.frozen import load_frozen
from patchscaler.training.latents import PatchDataset, latent_cache, random_patches
from patchscaler.training.picture_loss import PictureLoss
from patchscaler.training.sampling import compare, model_of
from patchscaler.training.settings import RunSettings
from patchscaler.training.validation import ConditionedPair, conditioned_pairs, sheet

# Pixels of a validation crop: many small ones tell more than few large ones. Whether a run helps differs from picture
# to picture (ground textures, objects), and 12 crops of 256 pixels once said the opposite of 48 whole pictures.
VALIDATION_SIDE = 128
SHEET_ROWS = 24

# Which parameters of DecodingDenoiser, by their names, each choice of `trained` changes.
TRAINED: dict[str, Callable[[str], bool]] = {
    "everything": lambda name: True,
    "restoration": lambda name: not name.startswith("autoencoder."),
    "patch_dit": lambda name: name.startswith(("patch_dit.", "encoder.")),
    "texture": lambda name: name.startswith("encoder.") or ".texture_" in name,
}


@dataclass(frozen=True)
class FinetuneSettings:
    """One fine-tuning run; it begins from the parts in the folders named.

    second_restorer, fusion  both or none: coarse latents are then what the gate makes of both restorers; neither learns
    features           folder of the convolutions of VGG16 and AlexNet; None: where they are installed. LPIPS (vgg) is a
                       loss, LPIPS (alex) only judges
    trained            "everything"; "restoration": all but the decoder; "patch_dit": Patch-DiT and the texture encoder,
                       between a restorer and a decoder that stay as they are; "texture": the texture encoder and the
                       cross-attention to its tokens alone
    plans              steps of the groups simple, medium, hard, drawn at random sample by sample
    uniform_share      share of samples noised at a uniform time, half of them from between x0 and y0
    side               latents of a patch, along each side, whose pixels are compared; one more is decoded, if there is
                       one, so that the compared pixels begin anywhere
    restorer_weight    of Eq. 1; 0: the restorer stays as it is, and its latents of `cache` are used
    uncertainty_weight lambda of Eq. 1
    grid_weight        of `grid_energy`, against patterns that repeat from token to token
    *_weight           of the losses, see PictureLoss; adversarial_after: steps before the discriminator is listened to
    validation_steps   of the groups, when validating; validation_count: crops, an equal share of them per condition
    """

    run: RunSettings
    pictures: PictureSet
    autoencoder: str
    restorer: str
    classifier: str
    memory: str
    patch_dit: str
    texture_encoder: str
    validation: str
    second_restorer: str | None = None
    fusion: str | None = None
    features: str | None = None
    pairs: PairSettings = field(default_factory=lambda: PairSettings(crop=256))
    cache: CacheSettings = field(default_factory=CacheSettings)
    trained: str = "everything"
    hard_share: float = 0.5
    plans: list[list[int]] = field(default_factory=lambda: [[0, 1, 1], [1, 1, 1], [1, 2, 3], [2, 3, 4]])
    uniform_share: float = 0.2
    prompt_dropout: float = 0.1
    side: int = 12
    restorer_weight: float = 0.0
    uncertainty_weight: float = 0.5
    latent_weight: float = 0.05
    pixel_weight: float = 1.0
    perceptual_weight: float = 1.0
    texture_weight: float = 0.0
    adversarial_weight: float = 0.02
    grid_weight: float = 0.0
    adversarial_after: int = 200
    discriminator_rate: float = 2e-4
    discriminator_width: int = 48
    validation_steps: list[int] = field(default_factory=lambda: [1, 2, 3])
    validation_count: int = 144


class FinetuneTask:
    def __init__(self, settings: FinetuneSettings) -> None:
        self.settings = settings
        if settings.trained not in TRAINED:
            raise ConfigError(f'trained "{settings.trained}": choose {", ".join(TRAINED)}')
        if bool(settings.fusion) != bool(settings.second_restorer) or (settings.fusion and settings.restorer_weight):
            raise ConfigError("second_restorer and fusion go together, and with restorer_weight 0: neither learns here")
        picture_files(Path(settings.validation))  # a missing folder fails now, not at the first validation
        self.alphas = torch.cat([make_scheduler().alphas_cumprod, torch.ones(1)])  # time -1: the clean latent
        self.plans = [GroupConfig(steps=tuple(steps)) for steps in settings.plans]
        self.times = [plan(config, TRAIN_STEPS).times.tolist() for config in self.plans]
        torch.manual_seed(settings.run.seed)
        restorer = load_frozen(ConvRestorer, settings.restorer).to(memory_format=torch.channels_last)
        second: dict[str, Any] = {}
        if settings.fusion and settings.second_restorer:
            second["second_restorer"] = load_frozen(RrdbRestorer, settings.second_restorer)
            second["fusion"] = load_frozen(Fusion, settings.fusion)
        channels_last(*second.values())
        self.network = DecodingDenoiser(
            load_frozen(PatchDiT, settings.patch_dit),
            load_frozen(TextureEncoder, settings.texture_encoder),
            load_frozen(DctAutoencoder, settings.autoencoder).to(memory_format=torch.channels_last),
            restorer if settings.restorer_weight else None,
        )
        self.network.train()
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(TRAINED[settings.trained](name))
        classifier = load_frozen(TextureClassifier, settings.classifier)
        memory = load_frozen(ReferenceTextureMemory, settings.memory)
        self.model = model_of(
            autoencoder=self.network.autoencoder,
            restorer=restorer,
            **second,
            patch_dit=self.network.patch_dit,
            texture_classifier=classifier,
            texture_encoder=self.network.encoder,
            texture_memory=memory,
        )
        config = self.network.patch_dit.config
        if (config["prediction_type"], config["prompt"]) != ("sample", "texture"):
            raise ConfigError("fine-tuning takes a Patch-DiT that predicts x0 (sample) and reads textures (texture)")
        self.patch = int(self.network.patch_dit.config["sample_size"])
        if not 1 <= settings.side <= self.patch:
            raise ConfigError(f"side {settings.side} must lie in 1..{self.patch}, the patch")
        self.compared = PictureLoss(settings)
        self.checkpointed = self.compared.checkpointed
        self.frozen = [*self.compared.frozen, restorer, classifier, memory, *second.values()]
        self._pairs: list[ConditionedPair] | None = None

    def dataset(self) -> Dataset:
        settings = self.settings
        if settings.restorer_weight:
            return PairDataset(settings.pictures, settings.pairs, settings.run.seed)
        cache = latent_cache(settings.cache, settings.pictures, settings.pairs, self.model.grm)
        return PatchDataset(cache, self.patch, settings.run.seed, settings.hard_share)

    def loss(
        self, network: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        settings, restoration = self.settings, None
        if settings.restorer_weight:
            batch, restoration = self._restored(batch, generator)
        coarse, pixels = batch["coarse"], batch["pixels"]
        hr = self.network.autoencoder.encode(pixels)
        prompt = None
        if float(torch.rand((), generator=generator)) >= settings.prompt_dropout:
            with torch.no_grad():
                prompt = self.model.look_up(coarse.detach())
        with torch.no_grad():
            x_t, t = self._states(hr, coarse, batch["log_error"], prompt, generator)
        square = Square.draw(self.patch, settings.side, generator)
        x0, decoded = network(x_t, t, coarse, batch["log_error"], prompt, square.place, square.latents)
        decoded = square.cut(decoded)
        truth = square.cut(pixel_square(pixels, square.place, square.latents))
        latent = (x0 - hr).square().mean()
        loss, figures = self.compared(decoded, truth)
        grid = grid_energy(decoded - truth, STRIDE * int(self.network.patch_dit.config["patch_size"]))
        loss = loss + settings.latent_weight * latent + settings.grid_weight * grid
        if not loss.requires_grad:  # no patch of the batch has a step, and nothing but Patch-DiT learns
            loss = loss + 0.0 * torch.stack([p.sum() for p in network.parameters() if p.requires_grad]).sum()
        if restoration is not None:
            loss, figures = loss + settings.restorer_weight * restoration, figures | {"eq1": restoration.detach()}
        return loss, figures | {"latent": latent.detach(), "grid": grid.detach()}

    def _restored(self, batch: dict[str, Tensor], generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
        """A patch of each degraded crop, as PatchDataset gives them but with gradients; and Eq. 1 of the crops."""
        restorer, settings = self.network.restorer, self.settings
        assert restorer is not None
        restored = restorer(batch["lr"].contiguous(memory_format=torch.channels_last))
        truth = self.network.autoencoder.encode(batch["hr"])
        equation, _ = restoration_loss(restored, truth, restorer.eta, settings.uncertainty_weight)
        log_error = restored.log_error.detach()
        return random_patches(batch, restored.latents, log_error, self.patch, settings.hard_share, generator), equation

    def _states(
        self, hr: Tensor, coarse: Tensor, log_error: Tensor, prompt: Any, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Where each sample stands when the step that learns begins: x_t and t; t = -1 for a patch without steps."""
        count, settings = len(hr), self.settings
        noise = torch.randn(hr.shape, generator=generator).to(hr.device)
        alphas = self.alphas.to(hr.device)[:, None, None, None]
        groups = assign_groups(confidence_from(log_error, self.model.restorer.eta).mean(dim=(1, 2, 3)))
        members = groups.tolist()
        drawn = torch.randint(len(self.plans), (count,), generator=generator).tolist()
        left = [self.plans[p].steps[g] for p, g in zip(drawn, members, strict=True)]  # steps still to go
        luck = torch.rand(count, generator=generator).tolist()
        target = [1 + int(u * n) if n else 0 for u, n in zip(luck, left, strict=True)]  # the step that learns

        def times(steps: list[int]) -> Tensor:
            values = [self.times[p][g][k] for p, g, k in zip(drawn, members, steps, strict=True)]
            return torch.tensor(values, device=hr.device)

        texture = self.network.texture(prompt)
        t = times(left)
        x_t = alphas[t].sqrt() * coarse + (1 - alphas[t]).sqrt() * noise  # Eq. 6
        while active := [i for i in range(count) if left[i] > target[i]]:
            chosen = None if texture is None else TextureCache(texture.keys[active], texture.values[active])
            x0 = self.network.patch_dit(x_t[active], t[active], coarse[active], log_error[active], chosen)
            left = [n - (n > k) for n, k in zip(left, target, strict=True)]
            after = times(left)
            x_t[active] = ddim_step(x_t[active], x0, alphas[t[active]], alphas[after[active]], "sample")  # Eq. 7
            t = after
        uniform = torch.rand(count, generator=generator) < settings.uniform_share
        blend = torch.rand(count, generator=generator) * (torch.rand(count, generator=generator) < 0.5)
        anywhere = torch.randint(TRAIN_STEPS, (count,), generator=generator).to(hr.device)
        start = hr + blend.to(hr.device)[:, None, None, None] * (coarse - hr)
        x_any = alphas[anywhere].sqrt() * start + (1 - alphas[anywhere]).sqrt() * noise
        mask = uniform.to(hr.device)
        return torch.where(mask[:, None, None, None], x_any, x_t), torch.where(mask, anywhere, t)

    def validate(self) -> tuple[dict[str, float], Image.Image | None]:
        settings = self.settings
        if self._pairs is None:
            self._pairs = conditioned_pairs(settings, VALIDATION_SIDE)
        config = GroupConfig(steps=tuple(settings.validation_steps))
        figures, rows = compare(self.model, self._pairs, config, {"psnr_y": psnr_y, "lpips_alex": self.compared.judged})
        return figures, sheet(rows[:: max(1, len(rows) // SHEET_ROWS)])

    def export(self, folder: Path) -> None:
        self.network.patch_dit.save_pretrained(folder / "patch_dit")
        self.network.encoder.save_pretrained(folder / "texture_encoder")
        self.network.autoencoder.save_pretrained(folder / "autoencoder")
        if self.network.restorer is not None:
            self.network.restorer.save_pretrained(folder / "restorer")
