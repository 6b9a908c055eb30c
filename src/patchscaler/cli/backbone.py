"""`patchscaler upscale --backbone`: pictures made by a diffusers pipeline with PGS over it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from patchscaler.errors import ConfigError

if TYPE_CHECKING:
    from patchscaler.engines.protocol import Engine
    from patchscaler.upscaler import Upscaler


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
        from patchscaler.options import PAPER_STEPS

        return ",".join(map(str, PAPER_STEPS)) if self.name is not None and not quality and not steps else steps

    def upscaler(self, engine: "Engine") -> "Upscaler":
        """With the pipeline, loaded. Raises WeightsError, ConfigError."""
        import torch

        from patchscaler.integrations.backbone import BackboneUpscaler
        from patchscaler.integrations.hub import load_backbone

        assert self.name is not None
        pipe, adapter = load_backbone(self.name, engine.device, getattr(torch, engine.dtype), self.style, self.prompt)
        return BackboneUpscaler(engine, self.name, pipe, adapter)
