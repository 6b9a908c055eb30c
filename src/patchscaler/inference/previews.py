"""The picture as it stands while its patches are refined, for whoever wants to look."""

import math

from torch import Tensor

from patchscaler.imaging.geometry import Size
from patchscaler.inference.bands import Finisher
from patchscaler.inference.canvas import FloatCanvas
from patchscaler.inference.shelf import Shelf
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.report import Preview, PreviewCallback, Report

LARGEST_FACTOR = 8  # then a latent is one pixel


class Previews:
    """Calls `callback` with a Preview.

    finisher       makes the picture of the clean latents; its `refined` is `clean.get`
    clean          patch number -> (c,V,V) clean latents so far; the restorer's stay where there is none
    groups, boxes  as in Preview
    """

    def __init__(
        self,
        callback: PreviewCallback,
        finisher: Finisher,
        clean: dict[int, Tensor],
        size: Size,
        groups: Tensor,
        boxes: list[tuple[int, int, int, int]],
    ) -> None:
        self.callback, self.finisher, self.clean, self.size = callback, finisher, clean, size
        self.preview = Preview(self._draw, groups, boxes)

    def show(self, numbers: list[int] | None = None, latents: Tensor | None = None) -> None:
        """Look again, with clean latents (n,c,V,V) of these patches."""
        if numbers is not None and latents is not None:
            self.clean.update(zip(numbers, latents.float().cpu(), strict=True))
        self.callback(self.preview)

    def _draw(self, side: int | None = None) -> Tensor:
        factor = 1 if side is None else min(LARGEST_FACTOR, 2 ** int(math.log2(max(1.0, max(self.size) / side))))
        if factor > 1 and isinstance(self.finisher.parts.autoencoder, DctAutoencoder):
            return self.finisher.small(factor)
        device = self.finisher.parts.device
        canvas = FloatCanvas(self.size, device, with_alpha=False)
        self.finisher.run(canvas, Shelf(), Report(str(device), "", 0), lambda progress: None)
        return canvas.pixels
