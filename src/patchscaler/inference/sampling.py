"""Prompt and sample: the two stages that work on patches, for any set of them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from patchscaler.diffusion.noise import place_noise
from patchscaler.diffusion.pgs import GroupConfig, StepEnd, clean_latents, sample
from patchscaler.inference.parts import Parts
from patchscaler.inference.settings import Settings
from patchscaler.models.folded_dit import FoldedDiT
from patchscaler.models.open_weights import weights_lie_open
from patchscaler.models.patch_dit import TextureCache

Stage = Callable[[str], AbstractContextManager[None]]


class PatchSet(NamedTuple):
    """Patches that are prompted and sampled together, those with most steps first.

    number  of the set
    places  (n,2) int64: row and column of each patch's first latent
    groups  (n,) int64
    coarse  (n,c,V,V) float32, error (n,1,V,V): the restorer's latents and log error
    seeds   (n,) int64, of the noise of each patch, where patches of several pictures are together; None: the settings'
    """

    number: int
    places: Tensor
    groups: Tensor
    coarse: Tensor
    error: Tensor
    seeds: Tensor | None = None


class Refiner:
    """Prompts and samples sets of patches with one copy of the networks."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._folded = FoldedDiT(parts.patch_dit) if weights_lie_open(parts.patch_dit) else None

    @torch.inference_mode()
    def __call__(
        self,
        patches: PatchSet,
        settings: Settings,
        stage: Stage = lambda name: nullcontext(),
        on_prompt: Callable[[int], None] = lambda done: None,
        on_step: Callable[[int], None] = lambda done: None,
        on_clean: Callable[[Tensor, Tensor], None] | None = None,
        on_step_end: StepEnd | None = None,
    ) -> Tensor:
        """Refined patches (n,c,V,V) float32 on the CPU.

        stage      called as stage("prompt") and stage("sample") around the two
        on_prompt  called with the patches prompted so far
        on_step    called with the patch-steps done so far
        on_clean   called after each batch with the places in the set (b,) and their clean latents (b,c,V,V)
        on_step_end  as in `pgs.sample`
        """
        device = self.parts.device
        coarse, error, groups = (part.to(device) for part in (patches.coarse, patches.error, patches.groups))
        noise = self._noise(patches, settings.seed).to(device)
        texture = None
        if settings.use_texture:
            with stage("prompt"):
                texture = self._prompt(coarse, error, settings.batch_size, on_prompt)

        alphas, kind = self.parts.alphas.to(device), self.parts.patch_dit.config["prediction_type"]

        def denoise(x_t: Tensor, t: Tensor, index: Tensor) -> Tensor:
            parts = [
                self._denoise(x_t[own], step, coarse[rows], error[rows], texture and [t[rows] for t in texture])
                for own, rows, step in _runs(t, index)
            ]
            prediction = parts[0] if len(parts) == 1 else torch.cat(parts)
            if on_clean:
                on_clean(index, clean_latents(x_t, prediction.float(), alphas[t], kind))
            return prediction

        with stage("sample"):
            return sample(
                coarse,
                groups,
                noise,
                denoise,
                alphas,
                settings.groups,
                prediction_type=kind,
                batch_size=settings.batch_size,
                on_step=lambda done, _: on_step(done),
                on_step_end=on_step_end,
            ).cpu()

    def _denoise(
        self, x_t: Tensor, step: int, coarse: Tensor, error: Tensor, texture: Sequence[Tensor] | None
    ) -> Tensor:
        """Patch-DiT's prediction for patches at the same step; texture: what `_texture` makes."""
        if self._folded:
            return self._folded(x_t, step, coarse, error, TextureCache(*texture) if texture else None)
        t = torch.full((len(x_t),), step, device=x_t.device)
        prediction: Tensor = self.parts.patch_dit(x_t, t, coarse, error, texture and texture[0])
        return prediction

    def _texture(self, coarse: Tensor) -> Sequence[Tensor]:
        """Keys and values; or the tokens alone, where a layer's weights are at hand in Patch-DiT's forward only."""
        return self.parts.prompt(coarse) if self._folded else [self.parts.texture_tokens(coarse)]

    def _prompt(
        self, coarse: Tensor, error: Tensor, batch_size: int, on_prompt: Callable[[int], None]
    ) -> Sequence[Tensor] | None:
        """`_texture` of the patches that read it, zeros for the others; None if none does. Written batch by batch into
        one cache, so that it exists once."""
        cache: Sequence[Tensor] | None = None
        read, places = self.parts.patch_dit.prompted(error), torch.arange(len(coarse), device=coarse.device)
        readers = places if read is None else places[read]
        for rows in readers.split(batch_size) if len(readers) else ():
            found = self._texture(coarse[rows])
            if cache is None:
                cache = [part.new_zeros(len(coarse), *part.shape[1:]) for part in found]
            for whole, part in zip(cache, found, strict=True):
                whole[rows] = part
            if rows[-1] < readers[-1]:
                on_prompt(int(rows[-1]) + 1)
        on_prompt(len(coarse))
        return cache

    def _noise(self, patches: PatchSet, seed: int) -> Tensor:
        _, channels, side, _ = patches.coarse.shape
        seeds = [seed] * len(patches.places) if patches.seeds is None else patches.seeds.tolist()
        places = zip(seeds, patches.places.tolist(), strict=True)
        crops = [place_noise(own, channels, top, left, side, side) for own, (top, left) in places]
        return torch.cat(crops)


def _runs(t: Tensor, index: Tensor) -> Iterator[tuple[slice, slice | Tensor, int]]:
    """Rows of a batch that share a time step: (their places in the batch, in the set, the step).

    Sets are sorted by group, so these lie side by side, and slices need no copy.
    """
    steps, counts = torch.unique_consecutive(t, return_counts=True)
    begin = 0
    for step, count in zip(steps.tolist(), counts.tolist(), strict=True):
        own = slice(begin, begin + count)
        first, last = int(index[begin]), int(index[begin + count - 1])
        yield own, slice(first, last + 1) if last - first + 1 == count else index[own], step
        begin += count


def by_cost(groups: Tensor, config: GroupConfig) -> Tensor:
    """Indices of the patches that have steps at all, those with most steps first, in the order of the picture."""
    steps = torch.tensor(config.steps)[groups]
    order = torch.argsort(steps, descending=True, stable=True)
    return order[: int((steps > 0).sum())]
