"""The picture as it stands while its patches are refined, for whoever wants to look."""

import math

import numpy as np
from numpy.typing import NDArray

from patchscaler.engines.protocol import Engine
from patchscaler.report import Preview, PreviewCallback, Report
from patchscaler.stages.canvas import FloatCanvas
from patchscaler.stages.refine import Patches
from patchscaler.stages.render import Renderer
from patchscaler.stages.spill import Spill

LARGEST_FACTOR = 8  # then a latent is one pixel


class Previews:
    """Calls `callback` with a Preview of the patches, of their clean latents as far as they are known."""

    def __init__(self, callback: PreviewCallback, engine: Engine, patches: Patches) -> None:
        self.callback, self.patches = callback, patches
        self.clean: dict[int, NDArray[np.float32]] = {}
        self.renderer = Renderer(engine, patches.task.picture, patches.grid, self._latents_of)
        self.preview = Preview(self._draw, patches.rows, patches.boxes)

    def show(self, numbers: list[int] | None = None, latents: NDArray[np.float32] | None = None) -> None:
        """Look again, with clean latents (n,c,V,V) of these patches."""
        if numbers is not None and latents is not None:
            self.clean.update(zip(numbers, latents, strict=True))
        self.callback(self.preview)

    def _latents_of(self, index: int, top: int, left: int) -> NDArray[np.float32]:
        return self.clean[index] if index in self.clean else self.patches.coarse.patch(top, left)

    def _draw(self, side: int | None = None) -> NDArray[np.float32]:
        size, engine = self.patches.task.output_size, self.renderer.engine
        factor = 1 if side is None else min(LARGEST_FACTOR, 2 ** int(math.log2(max(1.0, max(size) / side))))
        if factor > 1 and engine.model.dct is not None:
            return self.renderer.small(factor)
        canvas = FloatCanvas(size)
        self.renderer.run(canvas, Spill(), Report(engine.device, "", 0), lambda progress: None)
        return canvas.pixels
