"""The way of one picture: restore, cut and group, prompt and sample, blend, decode, colour fix. Any size.

Each stage goes over the picture in pieces: tiles with a halo, sets of patches, bands of rows. What it leaves lies on a
`Shelf`, in memory or in files, so that memory is bounded and a killed run goes on where it was. A small picture takes
the same way with one piece per stage.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from patchscaler.diffusion.pgs import StepEnd, assign_groups, count_steps
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.picture import Picture
from patchscaler.imaging.tiles import PatchGrid, padded_size, split
from patchscaler.inference.bands import Finisher
from patchscaler.inference.canvas import Canvas
from patchscaler.inference.crew import Crew, Work
from patchscaler.inference.parts import SCALE, STRIDE
from patchscaler.inference.previews import Previews
from patchscaler.inference.restoring import Plane, ask_second, restore
from patchscaler.inference.sampling import PatchSet, by_cost
from patchscaler.inference.settings import Settings
from patchscaler.inference.shelf import Shelf
from patchscaler.models.restorer import confidence_from
from patchscaler.report import PreviewCallback, ProgressCallback, Report

Adjust = Callable[[Settings, Tensor], Settings]


@dataclass(frozen=True)
class Way:
    """What was found out on the way.

    confidence   (1,1,h,w) in (0,1], on the latent grid (8 output pixels)
    groups       (rows,cols) int64, 0 simple .. 2 hard
    patch_boxes  (top,left,height,width) in output pixels, in the order of groups.flatten()
    settings     as they were used: a budget has chosen the steps
    """

    confidence: Float[Tensor, "1 1 h w"]
    groups: Int64[Tensor, "rows cols"]
    patch_boxes: list[tuple[int, int, int, int]]
    settings: Settings


@torch.no_grad()
def enlarge(
    picture: Picture,
    crew: Crew,
    settings: Settings,
    canvas: Canvas,
    report: Report,
    *,
    shelf: Shelf | None = None,
    notify: ProgressCallback = lambda progress: None,
    adjust: Adjust = lambda settings, groups: settings,
    on_preview: PreviewCallback | None = None,
    on_step_end: StepEnd | None = None,
) -> Way:
    """Enlarges `picture` x4 onto `canvas`.

    crew    who does it: the parts, and worker processes if there are any
    report  is filled
    shelf   of intermediate results; None: in memory
    adjust  called with the settings and the patches' groups before sampling; returns the settings to go on with

    on_preview  called with a Preview after the restoration and after every batch of patch-steps; with worker processes,
                after every set of patches
    on_step_end  called after each step of each set of patches that this process samples, as in `pgs.sample`
    """
    shelf, parts = shelf or Shelf(), crew.parts
    pixels = picture.pixels.to(parts.device)
    latent_size = Size(-(-pixels.shape[-2] // 2), -(-pixels.shape[-1] // 2))
    report.input_size = (pixels.shape[-2], pixels.shape[-1])
    report.output_size = (SCALE * pixels.shape[-2], SCALE * pixels.shape[-1])
    plane = Plane(shelf, padded_size(latent_size, parts.patch), int(parts.patch_dit.config["latent_channels"]))
    grid = PatchGrid(plane.size, parts.patch, parts.patch - parts.overlap)

    # 1. Coarse latents and their expected error.
    with report.stage("restore"):
        restore(parts, pixels, latent_size, plane, notify)
    if parts.fusion is not None and settings.denoise > 0:
        with report.stage("second"):
            report.second = ask_second(parts, pixels, latent_size, plane, settings, notify)

    # 2. Patches, their groups, and who gets how many steps.
    errors = split(plane.error(), grid)
    groups = assign_groups(confidence_from(errors, parts.restorer.eta).mean(dim=(1, 2, 3)), settings.gammas)
    settings = settings.with_steps(tuple(shelf.notes.get("steps") or adjust(settings, groups).steps))
    shelf.note(steps=settings.steps)
    order = by_cost(groups, settings.groups)
    counts = count_steps(groups, settings.groups)
    report.patch_steps = counts.pop("patch_steps")
    report.patches, report.steps = counts, dict(zip(settings.groups.names, settings.steps, strict=True))

    rows, boxes = groups.reshape(len(grid.rows), len(grid.cols)), _boxes(grid, Size(*report.output_size))
    previews = None
    if on_preview:
        clean: dict[int, Tensor] = {}
        plain = replace(picture, alpha=None)
        drawer = Finisher(parts, plain, pixels, grid, latent_size, plane.coarse_patch, clean.get)
        previews = Previews(on_preview, drawer, clean, Size(*report.output_size), rows, boxes)

    # 3. Texture prompt and sampling, set by set.
    refined = _Refined(shelf, order, len(groups), (plane.channels, parts.patch, parts.patch))
    _refine(crew, plane, grid, groups, refined, settings, report, notify, previews, on_step_end)

    # 4. Blend, decode and colour fix, band by band.
    finisher = Finisher(parts, picture, pixels, grid, latent_size, plane.coarse_patch, refined.get)
    finisher.run(canvas, shelf, report, notify)

    confidence = confidence_from(plane.error(), parts.restorer.eta)[..., : latent_size.height, : latent_size.width]
    return Way(
        confidence=confidence,
        groups=rows,
        patch_boxes=boxes,
        settings=settings,
    )


class _Refined:
    """Refined patches in the order they are sampled, on the shelf, and which patch is where."""

    def __init__(self, shelf: Shelf, order: Tensor, patches: int, shape: tuple[int, int, int]) -> None:
        self.shelf, self.order, self.shape = shelf, order, (len(order), *shape)
        self._place = torch.full((patches,), -1)
        self._place[order] = torch.arange(len(order))

    def write(self, start: int, values: Tensor) -> None:
        self._array()[start : start + len(values)] = values.numpy()

    def get(self, number: int) -> Tensor | None:
        """(c,V,V), or None for a patch without steps."""
        place = int(self._place[number])
        return None if place < 0 else torch.from_numpy(np.array(self._array()[place]))

    def _array(self) -> np.ndarray:
        return self.shelf.array("refined", self.shape, np.float32)


def _refine(
    crew: Crew,
    plane: Plane,
    grid: PatchGrid,
    groups: Tensor,
    refined: _Refined,
    settings: Settings,
    report: Report,
    notify: ProgressCallback,
    previews: Previews | None,
    on_step_end: StepEnd | None,
) -> None:
    """Prompt and sample all patches that have steps, in sets, those with most steps first."""
    shelf, order = plane.shelf, refined.order
    places = torch.tensor([(top, left) for top in grid.rows for left in grid.cols])
    size = int(shelf.notes.get("set_size") or crew.set_size(len(order)))
    shelf.note(set_size=size)  # a resumed run must cut the same sets, whoever does them
    sets = order.split(size) if len(order) else ()
    done = set(shelf.notes.get("sampled", []))

    def load(number: int) -> PatchSet:
        chosen = sets[number]
        corners = places[chosen].tolist()
        coarse = torch.stack([plane.coarse_patch(top, left, grid.patch) for top, left in corners])
        error = torch.stack([plane.error_patch(top, left, grid.patch) for top, left in corners])
        return PatchSet(number, places[chosen], groups[chosen], coarse, error)

    followed: set[int] = set()  # whose previews come batch by batch

    def on_clean(number: int, index: Tensor, latents: Tensor) -> None:
        assert previews
        followed.add(number)
        previews.show(sets[number][index.cpu()].tolist(), latents)

    def keep(number: int, values: Tensor) -> None:
        refined.write(number * size, values)
        done.add(number)
        shelf.note(sampled=sorted(done))
        if previews and number not in followed:
            previews.show(sets[number].tolist(), values)

    if previews:
        for patch in (patch for number in done for patch in sets[number].tolist()):  # of an earlier run
            if (latents := refined.get(patch)) is not None:
                previews.clean[patch] = latents
        previews.show()

    hardest = len(settings.steps) - 1
    work = Work(
        todo=[number for number in range(len(sets)) if number not in done],
        costs=[count_steps(groups[chosen], settings.groups)["patch_steps"] for chosen in sets],
        sizes=[len(chosen) for chosen in sets],
        hardest=frozenset(number for number, chosen in enumerate(sets) if bool((groups[chosen] == hardest).any())),
        load=load,
        keep=keep,
        on_clean=on_clean if previews else None,
        on_step_end=on_step_end,
    )
    crew.refine(work, settings, report, notify)


def _boxes(grid: PatchGrid, size: Size) -> list[tuple[int, int, int, int]]:
    """Patches in output pixels, cut at the picture's border."""
    side = grid.patch * STRIDE
    return [
        (top * STRIDE, left * STRIDE, min(side, size.height - top * STRIDE), min(side, size.width - left * STRIDE))
        for top in grid.rows
        for left in grid.cols
    ]
