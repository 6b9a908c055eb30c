"""`patchscaler upscale --backbone`: pictures made by a diffusers pipeline with PGS over it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from patchscaler.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from patchscaler.imaging.geometry import Size
    from patchscaler.imaging.picture import Picture
    from patchscaler.inference.crew import Crew
    from patchscaler.inference.settings import Settings
    from patchscaler.making import Made, Order, Pass
    from patchscaler.report import Progress, ProgressCallback, Report


@dataclass(frozen=True)
class Backbone:
    """The options --backbone, --backbone-style and --prompt; no name: the model alone."""

    name: str | None
    style: str | None
    prompt: str | None

    def check(self, *, budget: float | None, resume: bool, workers: int, device: str) -> None:
        """Raises ConfigError for options that need a backbone, and for those that a backbone can't keep to."""
        if self.name is None:
            lost = {"--backbone-style": self.style, "--prompt": self.prompt}
            for option, value in lost.items():
                if value is not None:
                    raise ConfigError(f"{option} {value}: is for a --backbone; name one")
            return
        refused = {"--budget": budget is not None, "--resume": resume, "--workers": workers > 1}
        refused["several devices"] = "," in device
        if given := [option for option, value in refused.items() if value]:
            raise ConfigError(f"{' and '.join(given)}: not with --backbone; leave it out")

    def steps(self, quality: str | None, steps: str | None) -> str | None:
        """--steps, or the paper's where a backbone is named and nothing chooses: few steps need training for them."""
        from patchscaler.inference.settings import PAPER_STEPS

        return ",".join(map(str, PAPER_STEPS)) if self.name is not None and not quality and not steps else steps

    def load(self, device: str) -> "Maker | None":
        """What makes pictures with the pipeline, loaded; None without a backbone. Raises WeightsError, ConfigError."""
        if self.name is None:
            return None
        from patchscaler.inference.parts import default_dtype
        from patchscaler.integrations.hub import load_backbone

        pipe, adapter = load_backbone(self.name, device, default_dtype(device), self.style, self.prompt)
        return Maker(self.name, pipe, adapter)


class Restored(NamedTuple):
    """A pass of the restorer alone, for transparency."""

    images: "Tensor"
    report: "Report"


@dataclass(frozen=True)
class Maker:
    """Makes one picture with a pipeline; called as `making.make` is."""

    name: str
    pipe: Any
    adapter: Callable[..., Any]

    def __call__(
        self,
        crew: "Crew",
        picture: "Picture",
        result: Path,
        size: "Size",
        order: "Order",
        *,
        started: float,
        notify: "ProgressCallback",
    ) -> "Made":
        from patchscaler.making import Made
        from patchscaler.sizes import enlarge_by

        def four_times(part: "Picture", notify: "ProgressCallback | None", restore_only: bool) -> Any:
            return self._four_times(crew, order.settings, part, notify or (lambda progress: None), restore_only)

        model = f"{Path(order.model).name} with {Path(self.name).name}"
        enlarged = enlarge_by(four_times, picture, size, model=model, on_progress=notify, wrap=order.wrap)
        passes: list[Any] = enlarged.outputs
        with passes[-1].report.stage("write"):
            enlarged.save(result, **order.saving)
        return Made(passes, lambda: None)

    def _four_times(
        self, crew: "Crew", settings: "Settings", part: "Picture", notify: "ProgressCallback", restore_only: bool
    ) -> "Pass | Restored":
        from patchscaler.coarse import restore
        from patchscaler.diffusion.pgs import count_steps
        from patchscaler.integrations.frame import Sampling
        from patchscaler.making import Pass
        from patchscaler.report import Progress, Report

        def show(progress: "Progress") -> None:
            if progress.stage == "restore":
                notify(progress)

        dtype = str(self.pipe.dtype).removeprefix("torch.")
        report = Report(str(crew.parts.device), dtype, settings.seed)
        coarse = restore(part, crew.parts, report=report, notify=show)
        if restore_only:
            return Restored(coarse.pixels, report)
        sampling = Sampling(
            groups=settings.groups,
            batch_latents=settings.batch_size * crew.parts.patch**2,
            seed=settings.seed,
            on_step=lambda done, total: notify(Progress("sample", done, total)),
        )
        with report.stage("sample"):
            made = self.adapter(self.pipe, coarse, sampling)
        report.patches = count_steps(made.groups.flatten(), settings.groups)
        report.patches.pop("patch_steps")
        report.patch_steps = int(made.evaluations.sum())
        report.steps = dict(zip(settings.groups.names, settings.steps, strict=True))
        return Pass(made.pixels, report, made.groups, made.patch_boxes)
