"""One pass of a picture through the four stages: what it is to become, and what is shared between the stages."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from patchscaler.imaging.geometry import SCALE, Size
from patchscaler.imaging.picture import Picture
from patchscaler.imaging.tiles import Tile
from patchscaler.options import Options
from patchscaler.pgs.sampling import StepEnd
from patchscaler.report import PreviewCallback, Progress, ProgressCallback, Report
from patchscaler.stages.canvas import Canvas, FloatCanvas
from patchscaler.stages.spill import Spill


@dataclass(kw_only=True)
class Task:
    """A picture that is to become x4.

    picture      without its alpha, which is a picture of its own
    canvas       the result is drawn on; None: float pixels in memory
    report       is filled
    spill        of intermediate results
    started      time.perf_counter() from which a budget counts
    notify       called with a Progress after every unit of work
    on_preview   called with a Preview after the restoration and after every batch of patch-steps; with workers, as they
                 hand in
    on_step_end  see `pgs.sampling.StepEnd`
    on_options   called with the options that the patches are sampled with, once a budget has chosen the steps
    """

    picture: Picture
    options: Options
    report: Report
    canvas: Canvas = field(default=None)  # type: ignore[assignment]
    spill: Spill = field(default_factory=Spill)
    started: float = 0.0
    notify: ProgressCallback = lambda progress: None
    on_preview: PreviewCallback | None = None
    on_step_end: StepEnd | None = None
    on_options: Callable[[Options], None] = lambda options: None

    def __post_init__(self) -> None:
        self.size = self.picture.size.latents()
        self.canvas = self.canvas or FloatCanvas(self.output_size)
        pixels = self.picture.pixels
        odd = ((0, 0), (0, 0), (0, pixels.shape[2] % 2), (0, pixels.shape[3] % 2))
        self.pixels: NDArray[np.float32] = np.pad(pixels, odd, mode="edge") if any(map(any, odd)) else pixels
        self.report.input_size, self.report.output_size = self.picture.size, self.output_size

    @property
    def output_size(self) -> Size:
        return self.picture.size.times(SCALE)

    def pending(self, stage: str, tiles: Sequence[Tile]) -> Iterator[Tile]:
        """The tiles of a stage that an earlier run has not done, with a note and a Progress after each."""
        done = self.spill.notes.get(stage, 0)
        for number, tile in enumerate(tiles):
            if number >= done:
                yield tile
                self.spill.note(**{stage: number + 1})
            self.notify(Progress(stage, number + 1, len(tiles)))
