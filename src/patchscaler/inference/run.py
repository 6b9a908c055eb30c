"""What one call of the pipeline does with each of its pictures."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from patchscaler.diffusion.pgs import StepEnd
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.picture import Picture
from patchscaler.inference.budget import keep_within
from patchscaler.inference.canvas import FloatCanvas, LatentCanvas
from patchscaler.inference.crew import Crew
from patchscaler.inference.output import PatchScalerOutput, as_type
from patchscaler.inference.parts import SCALE
from patchscaler.inference.settings import Settings
from patchscaler.inference.way import enlarge
from patchscaler.report import PreviewCallback, ProgressCallback, Report


@dataclass(frozen=True)
class Run:
    """on_settings is called with the settings that the patches are sampled with; the rest as in the pipeline's call."""

    crew: Crew
    output_type: str
    notify: ProgressCallback
    on_preview: PreviewCallback | None
    on_step_end: StepEnd
    on_settings: Callable[[Settings], None]

    def enlarge(self, picture: Picture, settings: Settings) -> PatchScalerOutput:
        """One picture, x4 or as latents."""
        parts = self.crew.parts
        report = Report(device=str(parts.device), dtype=str(parts.dtype).removeprefix("torch."), seed=settings.seed)
        within_budget = keep_within(self.crew, report, time.perf_counter())

        def adjust(settings: Settings, groups: Tensor) -> Settings:
            settings = within_budget(settings, groups)
            self.on_settings(settings)
            return settings

        size = Size(picture.size.height * SCALE, picture.size.width * SCALE)
        canvas: FloatCanvas | LatentCanvas = LatentCanvas()
        if self.output_type != "latent":
            canvas = FloatCanvas(size, parts.device, picture.alpha is not None)
        way = enlarge(
            picture,
            self.crew,
            settings,
            canvas,
            report,
            notify=self.notify,
            adjust=adjust,
            on_preview=self.on_preview,
            on_step_end=self.on_step_end,
        )
        if isinstance(canvas, LatentCanvas):
            images, alpha = canvas.latents, None
        else:
            images, alpha = as_type(canvas.pixels, canvas.alpha, picture, self.output_type), canvas.alpha
        return PatchScalerOutput(
            images=images,
            alpha=alpha,
            confidence=way.confidence,
            groups=way.groups,
            patch_boxes=way.patch_boxes,
            report=report,
        )
