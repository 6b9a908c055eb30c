"""Any size from a model that can x4: one pass and a reduction, or two passes; transparency is a picture of its own."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from patchscaler import __version__
from patchscaler.engines.protocol import Engine
from patchscaler.imaging.alpha import bounded_alpha, extend_colours
from patchscaler.imaging.files import Picture, to_pil, write_picture
from patchscaler.imaging.geometry import SCALE, Size
from patchscaler.imaging.icc import is_srgb
from patchscaler.imaging.resize import resize_bicubic
from patchscaler.imaging.wrapping import MARGIN, cut_confidence, cut_patches, cut_wrapped, pad_wrapped, resize_wrapped
from patchscaler.imaging.writing import Writable
from patchscaler.options import Options
from patchscaler.report import Preview, PreviewCallback, Progress, ProgressCallback, Report
from patchscaler.stages.canvas import Canvas, FloatCanvas, LatentCanvas, SampleCanvas
from patchscaler.stages.refine import Patches
from patchscaler.stages.spill import Spill, spill_for
from patchscaler.stages.task import Task

PROGRESS_UNITS = 10_000  # of a stage, where two passes share it


class Pass(NamedTuple):
    """What one pass of the model found out: see Result."""

    report: Report
    confidence: NDArray[np.float32]
    groups: NDArray[np.int64]
    patch_boxes: list[tuple[int, int, int, int]]


@dataclass
class Result:
    """An enlarged picture.

    source   the picture given, with its metadata
    pixels   (1,3,H,W) sRGB in [0,1]; samples of 8 or 16 bits where a file was named and they lie there
    alpha    (1,1,H,W) in [0,1], or None
    passes   of the model; the last made the picture, and its are

    confidence   (1,1,h,w) in (0,1], on the grid of 8 pixels of the picture x4
    groups       (rows,cols), 0 simple .. 2 hard
    patch_boxes  (top,left,height,width) in pixels of the picture x4, in the order of groups.flatten()
    report       see Report
    """

    source: Picture
    pixels: NDArray[Any]
    alpha: NDArray[np.float32] | None
    passes: list[Pass]
    model: str
    wrap: bool = False
    spills: Sequence[Spill] = ()

    @property
    def confidence(self) -> NDArray[np.float32]:
        return self.passes[-1].confidence

    @property
    def groups(self) -> NDArray[np.int64]:
        return self.passes[-1].groups

    @property
    def patch_boxes(self) -> list[tuple[int, int, int, int]]:
        return self.passes[-1].patch_boxes

    @property
    def report(self) -> Report:
        return self.passes[-1].report

    @property
    def size(self) -> Size:
        return Size(*self.pixels.shape[-2:])

    @property
    def seconds(self) -> float:
        """What all stages of all passes took."""
        return math.fsum(stage["seconds"] for each in self.passes for stage in each.report.stages.values())

    @property
    def image(self) -> Image.Image:
        """As an 8-bit PIL picture in sRGB: RGB, RGBA, L or LA."""
        return to_pil(self.pixels, self.alpha, self.source.grey)

    @property
    def history(self) -> str:
        """One line on what was done."""
        steps = ",".join(map(str, self.report.steps.values()))
        passes = f", {len(self.passes)} passes" if len(self.passes) > 1 else ""
        how = f"model {self.model}, steps {steps}, seed {self.report.seed}"
        sizes = f"{self.source.size} to {self.size} pixels"
        return f"PatchScaler {__version__}: {sizes}{passes}, {how}{', wrap' * self.wrap}"

    def save(
        self,
        path: str | Path | Writable,
        *,
        quality: int = 95,
        lossless: bool = False,
        metadata: bool = True,
        format: str | None = None,
    ) -> None:
        """Write a file, or to a file object, with profile, depth and metadata of the source; see `write_picture`."""
        write_picture(
            path,
            self.pixels,
            like=self.source,
            alpha=self.alpha,
            quality=quality,
            lossless=lossless,
            metadata=metadata,
            history=self.history,
            format=format,
        )

    def clear(self) -> None:
        """Removes the intermediate results that lie beside a named file; pixels may be gone with them."""
        for spill in self.spills:
            spill.clear()


class Passes:
    """The passes of one picture: each yielded as a Task, and taken back with its pixels before the next."""

    def __init__(
        self,
        engine: Engine,
        picture: Picture,
        size: Size,
        options: Options,
        on_progress: ProgressCallback | None,
        on_preview: PreviewCallback | None,
        file: str | Path | None,
        resume: bool,
        started: float,
    ) -> None:
        self.engine, self.picture, self.size, self.options = engine, picture, size, options
        self.notify: ProgressCallback = on_progress or (lambda progress: None)
        self.on_preview, self.resume, self.started = on_preview, resume, started
        self.file = None if file is None else Path(file)
        self._pixels: NDArray[Any] = picture.pixels  # what the newest pass has made
        self._latent = False  # whether these are latents, which nothing resizes
        self._alpha: NDArray[np.float32] | None = None
        self._passes: list[Pass] = []
        self._spills: list[Spill] = []

    def __iter__(self) -> Iterator[Task]:
        picture, alpha = self.picture, self.picture.alpha
        plain = replace(picture, alpha=None, beyond=None)
        if alpha is not None:
            plain = replace(plain, pixels=extend_colours(picture.pixels, alpha))
            if alpha.min() == alpha.max():
                self._alpha = np.full((1, 1, *self.size), alpha.flat[0], np.float32)
            else:  # diffusion would add texture; constant areas stay exactly so
                grey = Picture(np.repeat(alpha, 3, axis=1), grey=True)
                yield from self._enlarge(grey, self.options.restoring(), lambda progress: None, None)
                self._alpha = bounded_alpha(self._pixels.mean(axis=1, keepdims=True), alpha, self.options.wrap)
                self._passes.clear()
        yield from self._enlarge(plain, self.options, self.notify, self.on_preview)

    def _enlarge(
        self, picture: Picture, options: Options, notify: ProgressCallback, on_preview: PreviewCallback | None
    ) -> Iterator[Task]:
        """One pass or two, and a reduction after each."""
        share = first_share(picture.size, self.size)
        if share is not None:
            budget = None if options.budget is None else share * options.budget  # the rest is the second pass's
            first = replace(options, budget=budget)
            yield self._task(picture, first, _part(notify, 0.0, share), on_preview)
            picture = replace(picture, pixels=self._resized(middle(self.size)))
            notify = _part(notify, share, 1 - share)
        yield self._task(picture, options, notify, on_preview)
        self._pixels = self._resized(self.size)

    def _task(
        self, picture: Picture, options: Options, notify: ProgressCallback, on_preview: PreviewCallback | None
    ) -> Task:
        if options.wrap:
            on_preview = on_preview and _wrapped_previews(on_preview, picture.size)
            picture = replace(picture, pixels=pad_wrapped(picture.pixels))
        spill = spill_for(self.file, picture, options, self.engine, self.resume)
        self._spills.append(spill)
        size = picture.size.times(SCALE)
        canvas: Canvas = SampleCanvas(spill, size, picture) if self._straight else FloatCanvas(size)
        if isinstance(canvas, FloatCanvas):
            spill.notes.pop("finished", None)  # it begins anew
        return Task(
            picture=picture,
            options=options,
            report=Report(self.engine.device, self.engine.dtype, options.seed),
            canvas=canvas,
            spill=spill,
            started=self.started,
            notify=notify,
            on_preview=on_preview,
        )

    @property
    def _straight(self) -> bool:
        """Whether the model's own samples are those of the file: x4, no transparency, no profile but sRGB."""
        picture = self.picture
        srgb = picture.icc_profile is None or is_srgb(picture.icc_profile)
        plain = picture.alpha is None and srgb and not self.options.wrap
        return self.file is not None and plain and self.size == picture.size.times(SCALE)

    def take(self, task: Task, patches: Patches, pixels: NDArray[Any]) -> None:
        """What came of a task."""
        confidence, rows, boxes = patches.coarse.confidence, patches.rows, patches.boxes
        if task.options.wrap:
            before = Size(*(side - 2 * MARGIN for side in task.picture.size))
            task.report.input_size, task.report.output_size = before, before.times(SCALE)
            pixels, confidence = cut_wrapped(pixels, before), cut_confidence(confidence, before)
            rows, boxes = cut_patches(rows, boxes, before)
        self._pixels, self._latent = pixels, isinstance(task.canvas, LatentCanvas)
        self._passes.append(Pass(task.report, confidence, rows, boxes))

    def _resized(self, size: Size) -> NDArray[Any]:
        """What the newest pass has made, at this size."""
        if self._latent or self._pixels.shape[-2:] == size:
            return self._pixels
        if self.options.wrap:
            return resize_wrapped(self._pixels, size)
        return resize_bicubic(self._pixels, size, clamp=True)

    def result(self, model: str) -> Result:
        """What came of all; `model`: its name for the history."""
        return Result(self.picture, self._pixels, self._alpha, self._passes, model, self.options.wrap, self._spills)


def first_share(before: Size, after: Size) -> float | None:
    """Share of the work that the first of two passes has; None where one pass is enough."""
    if all(side <= SCALE * own for side, own in zip(after, before, strict=True)):
        return None
    return math.prod(before) / (math.prod(before) + math.prod(middle(after)))


def middle(size: Size) -> Size:
    """What the first of two passes leads to."""
    return Size(*(math.ceil(side / SCALE) for side in size))


def _wrapped_previews(on_preview: PreviewCallback, before: Size) -> PreviewCallback:
    """`on_preview` for previews of the padded picture, `before`: its size without the margin."""
    padded = Size(*(side + 2 * MARGIN for side in before))

    def show(preview: Preview) -> None:
        def draw(*side: int) -> NDArray[np.float32]:
            drawn = preview.draw(*(math.ceil(each * max(padded) / max(before)) for each in side))
            factor = SCALE * padded.height / drawn.shape[-2]
            return cut_wrapped(drawn, before, SCALE / 2 ** round(math.log2(factor)))

        on_preview(Preview(draw, *cut_patches(preview.groups, preview.patch_boxes, before)))

    return show


def _part(on_progress: ProgressCallback, start: float, share: float) -> ProgressCallback:
    """A callback for a pass that is only a `share` of each stage, from `start` on."""

    def scaled(progress: Progress) -> None:
        done = start + share * progress.done / max(progress.total, 1)
        on_progress(Progress(progress.stage, round(done * PROGRESS_UNITS), PROGRESS_UNITS))

    return scaled
