"""The Upscaler with a diffusers pipeline in the place of Patch-DiT."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from patchscaler.engines.protocol import Engine
from patchscaler.integrations.frame import Coarse, Sampling, Upscaled
from patchscaler.pgs.groups import count_steps
from patchscaler.report import Progress
from patchscaler.stages.canvas import FloatCanvas
from patchscaler.stages.refine import Patches
from patchscaler.stages.render import Renderer
from patchscaler.stages.restore import CoarseLatents
from patchscaler.upscaler import Upscaler


class BackboneUpscaler(Upscaler):
    """Restores and renders with our model; what it renders, another pipeline refines by PGS.

    name     of the pipeline, for the history
    pipe, adapter  from `hub.load_backbone`
    """

    def __init__(self, engine: Engine, name: str, pipe: Any, adapter: Callable[..., Upscaled]) -> None:
        super().__init__(engine=engine)
        self.name, self.pipe, self.adapter = name, pipe, adapter

    def group(self, coarse: CoarseLatents) -> Patches:
        """Our own patches, none of which has steps."""
        patches = super().group(coarse)
        return Patches(coarse, patches.grid, patches.groups, patches.options.restoring())

    def render(self, patches: Patches) -> NDArray[Any]:
        """The coarse picture, then the pipeline's over it, if any group has steps."""
        task, batch = patches.task, patches.task.options.batch_size
        canvas = FloatCanvas(task.output_size)
        renderer = Renderer(self.engine, task.picture, patches.grid, patches.latents_of)
        renderer.run(canvas, task.spill, task.report, lambda progress: None)
        groups = task.options.groups
        if not any(groups.steps):
            return canvas.pixels
        tensors = map(torch.from_numpy, (task.picture.pixels, canvas.pixels, patches.coarse.confidence))
        sampling = Sampling(
            groups=groups,
            batch_latents=batch * self.engine.model.patch**2,
            seed=task.options.seed,
            on_step=lambda done, total: task.notify(Progress("sample", done, total)),
        )
        with task.report.stage("sample"):
            made = self.adapter(self.pipe, Coarse(*tensors), sampling)
        patches.rows, patches.boxes = made.groups.numpy(), made.patch_boxes
        task.report.count(count_steps(patches.rows.flatten(), groups), groups)
        task.report.patch_steps = int(made.evaluations.sum())
        task.report.dtype = str(self.pipe.dtype).removeprefix("torch.")
        return made.pixels.cpu().numpy()

    @property
    def model_name(self) -> str:
        return f"{super().model_name} with {Path(self.name).name}"
