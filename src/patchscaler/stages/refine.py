"""Patches in their groups, and what refines any set of them: texture prompt and sampling."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np

from patchscaler.engines.protocol import Engine
from patchscaler.imaging.geometry import STRIDE, Size
from patchscaler.imaging.shapes import Array, Indices
from patchscaler.imaging.tiles import PatchGrid
from patchscaler.options import Options
from patchscaler.pgs.groups import by_cost
from patchscaler.pgs.noise import place_noise
from patchscaler.pgs.sampling import Sampling, StepEnd
from patchscaler.stages.restore import CoarseLatents

Stage = Callable[[str], AbstractContextManager[None]]


class PatchSet(NamedTuple):
    """Patches that are prompted and sampled together, those with most steps first.

    number  of the set
    places  (n,2) row and column of each patch's first latent
    groups  (n,)
    coarse  (n,c,V,V), error (n,1,V,V): the restorer's latents and log error
    seeds   (n,) of the noise of each patch, where patches of several pictures are together; None: the options'
    """

    number: int
    places: Indices
    groups: Indices
    coarse: Array
    error: Array
    seeds: Indices | None = None


class Work(NamedTuple):
    """Sets of patches to be prompted and sampled.

    todo          numbers of the sets that are still to be done
    costs, sizes  patch-steps and patches of every set, those that are done too
    hardest       sets with patches of the hardest group
    load, keep    fetch a set, and put away its refined patches
    on_clean      called while a set is sampled in this process with its number, places in it and their clean latents
    on_step_end   see `pgs.sampling.StepEnd`, of every set that is sampled in this process
    """

    todo: Sequence[int]
    costs: Sequence[int]
    sizes: Sequence[int]
    hardest: frozenset[int]
    load: Callable[[int], PatchSet]
    keep: Callable[[int, Array], None]
    on_clean: Callable[[int, Indices, Array], None] | None = None
    on_step_end: StepEnd | None = None


class Patches:
    """A coarse picture cut into patches, in groups.

    grid     of the patches
    groups   (B,) 0 simple .. 2 hard, row-major
    options  as they are used: a budget has chosen the steps
    order    of the patches that have steps, those with most first
    rows, boxes  the groups as (rows,cols), and (top,left,height,width) of each in output pixels, in the order of groups
    """

    def __init__(self, coarse: CoarseLatents, grid: PatchGrid, groups: Indices, options: Options) -> None:
        self.coarse, self.grid, self.groups, self.options = coarse, grid, groups, options
        self.task = coarse.task
        self.order = by_cost(groups, options.groups)
        self.places = np.array([(top, left) for top in grid.rows for left in grid.cols])
        self._where = np.full(len(groups), -1)
        self._where[self.order] = np.arange(len(self.order))
        self.rows, self.boxes = groups.reshape(len(grid.rows), len(grid.cols)), self._boxes()

    def take(self, number: int, chosen: Indices) -> PatchSet:
        """The patches of these indices as a set."""
        places = self.places[chosen]
        coarse = np.stack([self.coarse.patch(*place) for place in places.tolist()])
        error = np.stack([self.coarse.error_patch(*place) for place in places.tolist()])
        return PatchSet(number, places, self.groups[chosen], coarse, error)

    def keep(self, start: int, refined: Array) -> None:
        """Puts refined patches away, from place `start` of `order` on."""
        self._refined()[start : start + len(refined)] = refined

    def latents(self, index: int) -> Array | None:
        """(c,V,V) refined, or None for a patch without steps."""
        place = int(self._where[index])
        return None if place < 0 else np.array(self._refined()[place])

    def _refined(self) -> Array:
        model = self.coarse.model
        shape = (len(self.order), model.channels, model.patch, model.patch)
        return self.task.spill.array("refined", shape, np.float32)

    def latents_of(self, index: int, top: int, left: int) -> Array:
        """(c,V,V): refined, or the restorer's."""
        refined = self.latents(index)
        return self.coarse.patch(top, left) if refined is None else refined

    def _boxes(self) -> list[tuple[int, int, int, int]]:
        """Cut at the picture's border."""
        side, size = self.grid.patch * STRIDE, Size(*self.task.output_size)
        corners = ((STRIDE * top, STRIDE * left) for top in self.grid.rows for left in self.grid.cols)
        return [(top, left, min(side, size.height - top), min(side, size.width - left)) for top, left in corners]


def refine_patches(
    engine: Engine,
    patches: PatchSet,
    options: Options,
    stage: Stage = lambda name: nullcontext(),
    on_prompt: Callable[[int], None] = lambda done: None,
    on_step: Callable[[int], None] = lambda done: None,
    on_clean: Callable[[Indices, Array], None] | None = None,
    on_step_end: StepEnd | None = None,
) -> Array:
    """Prompts and samples a set: refined patches (n,c,V,V).

    stage      called as stage("prompt") and stage("sample") around the two
    on_prompt  called with the patches prompted so far
    on_step    called with the patch-steps done so far
    on_clean   called after each batch with the places in the set (b,) and their clean latents (b,c,V,V)
    on_step_end  see `pgs.sampling.StepEnd`
    """
    model, count, batch_size = engine.model, len(patches.places), options.batch_size

    # Algorithm 1: each patch's own textures. Choice: none where the restorer is least sure (docs/lab/texture.md).
    texture: Any = None
    if options.use_texture:
        with stage("prompt"):
            error = patches.error.mean(axis=(1, 2, 3))
            limit = np.inf if model.prompt_limit is None else model.prompt_limit
            readers = np.flatnonzero(error <= limit)
            for first in range(0, len(readers), batch_size):
                rows = readers[first : first + batch_size]
                texture = engine.prompt(patches.coarse[rows], rows, texture, count)
                if rows[-1] < readers[-1]:
                    on_prompt(int(rows[-1]) + 1)
            on_prompt(count)

    # Eq. 6 and 7: from tau to 0, each group from its own time.
    with stage("sample"):
        sampling = Sampling(
            patches.coarse,
            patches.groups,
            noise_of(patches, options.seed),
            model.alphas,
            options.groups,
            prediction_type=model.prediction_type,
            batch_size=batch_size,
            on_step_end=on_step_end,
        )
        for batch in sampling.batches():
            rows = batch.rows
            prediction = engine.denoise(batch.x_t, batch.t, patches.coarse[rows], patches.error[rows], texture, rows)
            clean = sampling.advance(batch, prediction)
            on_step(sampling.done)
            if on_clean:
                on_clean(rows, clean)
        return sampling.latents


def noise_of(patches: PatchSet, seed: int) -> Array:
    """Each patch's crop of the noise field, (n,c,V,V)."""
    _, channels, side, _ = patches.coarse.shape
    seeds = [seed] * len(patches.places) if patches.seeds is None else patches.seeds.tolist()
    places = zip(seeds, patches.places.tolist(), strict=True)
    return np.concatenate([place_noise(own, channels, top, left, side, side) for own, (top, left) in places])
