"""The picture as it stands while its patches are refined, for whoever wants to look."""

from torch import Tensor

from patchscaler.imaging.geometry import Size
from patchscaler.inference.bands import Finisher
from patchscaler.inference.canvas import FloatCanvas
from patchscaler.inference.shelf import Shelf
from patchscaler.report import Preview, PreviewCallback, Report


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

    def _draw(self) -> Tensor:
        device = self.finisher.parts.device
        canvas = FloatCanvas(self.size, device, with_alpha=False)
        self.finisher.run(canvas, Shelf(), Report(str(device), "", 0), lambda progress: None)
        return canvas.pixels
