"""The way of one picture's latents through prompt and PGS, as at inference, for the validation of training runs."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from patchscaler.diffusion.noise import place_noise
from patchscaler.diffusion.pgs import GroupConfig, assign_groups, sample
from patchscaler.diffusion.schedule import make_scheduler
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.tiles import OVERLAP, PatchGrid, merge, pad_to_patch, raised_cosine_window, split
from patchscaler.models.grm import GlobalRestoration
from patchscaler.models.latents import decode_latents
from patchscaler.models.patch_dit import PatchDiT, TextureCache
from patchscaler.models.restorer import Restoration, confidence_from
from patchscaler.models.texture import ReferenceTextureMemory, TextureClassifier, TextureEncoder


@dataclass(frozen=True)
class Sampler:
    """All that refines a picture; the networks may be in training."""

    grm: GlobalRestoration
    classifier: TextureClassifier
    memory: ReferenceTextureMemory
    encoder: TextureEncoder
    patch_dit: PatchDiT

    @property
    def restorer(self) -> Any:
        return self.grm.restorer

    @torch.no_grad()
    def restore(self, pixels: Tensor) -> Restoration:
        """Coarse latents and log error of LR pixels (n,3,h,w)."""
        return self.grm(pixels)

    @torch.no_grad()
    def prompt(self, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """Algorithm 1: textures (n,K,c,V,V) and similarities (n,K) for coarse patches (n,c,V,V)."""
        found = self.memory.retrieve(self.classifier(coarse), int(self.encoder.config["top_k"]))
        return self.memory.read(found.places), found.similarities

    @torch.no_grad()
    def refine(self, restored: Restoration, config: GroupConfig, seed: int) -> Tensor:
        """Refined latents (1,c,h,w) of a restored picture."""
        height, width = restored.latents.shape[-2:]
        patch = int(self.patch_dit.config["sample_size"])
        coarse, log_error = pad_to_patch(restored.latents, patch), pad_to_patch(restored.log_error, patch)
        grid = PatchGrid(Size(*coarse.shape[-2:]), patch, patch - OVERLAP)
        patches, errors = split(coarse, grid), split(log_error, grid)
        noise = split(place_noise(seed, coarse.shape[1], 0, 0, *coarse.shape[-2:]).to(coarse.device), grid)
        groups = assign_groups(confidence_from(errors, self.restorer.eta).mean(dim=(1, 2, 3)), config.gammas)
        texture = self.patch_dit.texture_cache(self.encoder(*self.prompt(patches)))

        def denoise(x_t: Tensor, t: Tensor, index: Tensor) -> Tensor:
            chosen = TextureCache(texture.keys[index], texture.values[index])
            return self.patch_dit(x_t, t, patches[index], errors[index], chosen)

        kind = self.patch_dit.config["prediction_type"]
        refined = sample(patches, groups, noise, denoise, make_scheduler().alphas_cumprod, config, prediction_type=kind)
        return merge(refined, grid, raised_cosine_window(patch, OVERLAP))[..., :height, :width]

    @torch.no_grad()
    def compare(
        self,
        pairs: Iterable[dict[str, Tensor]],
        config: GroupConfig,
        figures: Mapping[str, Callable[..., Any]],
    ) -> Iterator[tuple[list[Tensor], dict[str, float]]]:
        """For each pair: pictures coarse, sampled (seed: its number) and true; {figure}_coarse, {figure}_sampled."""
        for number, pair in enumerate(pairs):
            device = next(self.patch_dit.parameters()).device
            pair = {name: pixels.to(device) for name, pixels in pair.items()}
            restored = self.restore(pair["lr"])
            latents = {"coarse": restored.latents, "sampled": self.refine(restored, config, seed=number)}
            pictures = {
                name: decode_latents(self.grm.autoencoder, part).float().clamp(0, 1) for name, part in latents.items()
            }
            yield (
                [*pictures.values(), pair["hr"]],
                {
                    f"{figure}_{name}": float(measure(picture, pair["hr"]))
                    for name, picture in pictures.items()
                    for figure, measure in figures.items()
                },
            )
