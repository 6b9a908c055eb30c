"""The way of one picture through PatchScaler: restore, cut, group, prompt, sample, blend, decode, colour fix."""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.utils import BaseOutput, is_accelerate_available
from jaxtyping import Float
from torch import Tensor

from patchscaler.errors import ConfigError, WeightsError
from patchscaler.imaging.files import Picture, picture_from, to_pil
from patchscaler.imaging.geometry import Size
from patchscaler.inference.budget import keep_within
from patchscaler.inference.canvas import FloatCanvas
from patchscaler.inference.crew import Crew
from patchscaler.inference.habits import StepCallback, step_end, write_custom_pipeline
from patchscaler.inference.parts import (
    OVERLAP,
    PARTS,
    SCALE,
    SECOND_PARTS,
    STRIDE,
    Parts,
    channels_last,
    check_folder,
    default_dtype,
)
from patchscaler.inference.settings import GAMMAS, TAUS, Settings, choose_denoise, choose_steps
from patchscaler.inference.way import enlarge
from patchscaler.models.fusion import Fusion
from patchscaler.models.patch_dit import PatchDiT, TextureCache
from patchscaler.models.restorer import ConvRestorer, Restoration
from patchscaler.models.rrdb import RrdbRestorer
from patchscaler.models.swin_restorer import SwinRestorer
from patchscaler.models.texture import ReferenceTextureMemory, TextureClassifier, TextureEncoder
from patchscaler.report import PreviewCallback, ProgressCallback, Report
from patchscaler.storage import dtype_argument, model_folder

__all__ = ["PARTS", "SCALE", "STRIDE", "PatchScalerOutput", "PatchScalerPipeline", "default_dtype"]


@dataclass
class PatchScalerOutput(BaseOutput):
    """What one call returns.

    images       one enlarged picture: list of PIL, (1,H,W,3) numpy or (1,3,H,W) tensor in [0,1]
    alpha        (1,1,H,W) in [0,1], or None
    confidence   (1,1,h,w) in (0,1], on the latent grid (8 output pixels)
    groups       (rows,cols) int64, 0 simple .. 2 hard
    patch_boxes  (top,left,height,width) in output pixels, in the order of groups.flatten()
    report       see Report
    """

    images: Any
    alpha: Tensor | None
    confidence: Tensor
    groups: Tensor
    patch_boxes: list[tuple[int, int, int, int]]
    report: Report


class PatchScalerPipeline(DiffusionPipeline):
    """Enlarges a picture x4 (arXiv 2405.17158). `PatchScalerPipeline.from_pretrained()` loads the bundled model.

    The parts are an autoencoder, the restorer (GRM), Patch-DiT, and classifier, memory and encoder of the texture
    prompt; perhaps a second restorer and its fusion with the first.
    """

    autoencoder: ModelMixin
    restorer: ConvRestorer | SwinRestorer
    patch_dit: PatchDiT
    texture_classifier: TextureClassifier
    texture_encoder: TextureEncoder
    texture_memory: ReferenceTextureMemory
    scheduler: DDIMScheduler
    second_restorer: RrdbRestorer | None
    fusion: Fusion | None

    _optional_components: ClassVar[list[str]] = list(SECOND_PARTS)  # type: ignore[misc]
    model_cpu_offload_seq = (
        "restorer->second_restorer->fusion->texture_classifier->texture_encoder->patch_dit->autoencoder"  # type: ignore[assignment]
    )

    _exclude_from_cpu_offload = ("texture_memory",)  # type: ignore[assignment]  # small, and has no parameters to follow
    _interrupt = False

    def __init__(
        self,
        autoencoder: ModelMixin,
        restorer: ModelMixin,
        patch_dit: PatchDiT,
        texture_classifier: TextureClassifier,
        texture_encoder: TextureEncoder,
        texture_memory: ReferenceTextureMemory,
        scheduler: DDIMScheduler,
        second_restorer: RrdbRestorer | None = None,
        fusion: Fusion | None = None,
        overlap: int = OVERLAP,
    ) -> None:
        super().__init__()
        self.register_modules(
            autoencoder=autoencoder,
            restorer=restorer,
            patch_dit=patch_dit,
            texture_classifier=texture_classifier,
            texture_encoder=texture_encoder,
            texture_memory=texture_memory,
            scheduler=scheduler,
            second_restorer=second_restorer,
            fusion=fusion,
        )
        self.register_to_config(overlap=overlap)
        channels_last(autoencoder, restorer, texture_classifier, second_restorer, fusion)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any = None, **kwargs: Any) -> "PatchScalerPipeline":
        """A model folder, hub id or bundled preset (None: "tiny"). `dtype`: bfloat16 where the processor multiplies it
        natively, else float32. Raises WeightsError for missing, unknown or wrongly shaped tensors, naming the file."""
        folder = model_folder(pretrained_model_name_or_path)
        if not os.path.isdir(folder) and (folder.count("/") != 1 or folder.startswith((".", "/"))):
            raise WeightsError(f"{folder}: no such model folder; name a folder, a hub id (owner/name) or leave it out")
        if os.path.isdir(folder):
            check_folder(Path(folder))
        # Without accelerate diffusers asks everybody to install it; inference doesn't need it.
        kwargs.setdefault("low_cpu_mem_usage", is_accelerate_available())
        dtype = kwargs.pop("dtype", None) or kwargs.pop("torch_dtype", None) or default_dtype("cpu")
        try:
            pipeline = super().from_pretrained(folder, **dtype_argument(dtype), **kwargs)
        except (OSError, ValueError) as error:
            raise WeightsError(f"{folder}: {' '.join(str(error).split())}") from error
        # Without accelerate, diffusers leaves a part whose first tensor is whole numbers in its stored precision.
        torch.nn.Module.to(pipeline.texture_memory, dtype)
        return pipeline

    def __call__(
        self,
        image: Any,
        *,
        scale: int = SCALE,
        seed: int = 0,
        output_type: str = "pil",
        quality: str | None = None,
        steps: Sequence[int] | None = None,
        gammas: Sequence[float] = GAMMAS,
        taus: Sequence[int] = TAUS,
        budget: float | None = None,
        workers: int | Sequence[str] = 1,
        split: str = "cost",
        batch_size: int = 32,
        use_texture: bool = True,
        denoise: float | None = None,
        generator: torch.Generator | None = None,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        on_progress: ProgressCallback | None = None,
        on_preview: PreviewCallback | None = None,
        return_dict: bool = True,
    ) -> PatchScalerOutput | tuple[Any]:
        """Enlarges one picture.

        image        path, PIL image, numpy array, tensor (3,H,W) in [0,1] or Picture; any size from 1x1
        scale        4
        seed         of the noise field; `generator`, if given, draws it instead
        output_type  "pil", "np" or "pt"
        quality      "fast", "balanced" (the default) or "best": preset of `steps`
        steps, taus  of the groups simple, medium, hard (Eq. 7); gammas: confidence thresholds between them (Eq. 2)
        budget       seconds for this call: takes as many steps as fit
        workers      processes that share the patches, or the device of each: ("cuda:0", "cuda:1"). They are started for
                     this call, so a script that asks for them needs the usual `if __name__ == "__main__":`
        split        of the patches among workers: "cost", or "groups" as in the paper (hard | the others)
        batch_size   patches per network call; does not change the result beyond rounding
        use_texture  False: no texture prompt
        denoise      0 to 1: how much the second restorer counts and how smooth noise may become. 0: it isn't asked,
                     which saves most of the time that degraded pictures take; 1: it counts everywhere. None: the gate
                     decides where it pays, and "fast" doesn't ask it
        callback_on_step_end  as in diffusers: called with (pipeline, step, timestep, {"latents": ...}) after each step;
                     latents it returns replace those of the patches, and `pipe._interrupt = True` leaves them as they
                     are. Steps and time are those of the hardest patches; of more than 256 patches with steps, each
                     256 take theirs in turn. Not with workers
        on_progress  called with a Progress after every unit of work
        on_preview   called with a Preview after the restoration and after every batch of patch-steps; with workers, as
                     they hand in

        Returns PatchScalerOutput; its picture is exactly `scale` times the input. At most one of quality, steps and
        budget may be given. Raises ConfigError, ImageReadError.
        """
        started = time.perf_counter()
        if scale != SCALE:
            raise ConfigError(f"scale {scale}: this model enlarges x{SCALE}; patchscaler.enlarge makes any size of it")
        if output_type not in ("pil", "np", "pt"):
            raise ConfigError(f'output_type "{output_type}": choose pil, np or pt')
        if generator is not None:
            seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        settings = Settings(
            steps=choose_steps(quality, steps, budget, taus),
            gammas=tuple(gammas),
            taus=tuple(taus),
            seed=seed,
            batch_size=batch_size,
            use_texture=use_texture,
            denoise=choose_denoise(quality, denoise),
            budget=budget,
        )
        parts = self.parts
        self._interrupt = False
        end = step_end(self, callback_on_step_end, callback_on_step_end_tensor_inputs, workers)
        report = Report(device=str(parts.device), dtype=str(self.dtype).removeprefix("torch."), seed=seed)
        picture = image if isinstance(image, Picture) else picture_from(image)
        size = Size(picture.size.height * SCALE, picture.size.width * SCALE)
        canvas = FloatCanvas(size, parts.device, picture.alpha is not None)
        notify = on_progress or (lambda progress: None)
        devices = [str(parts.device)] * workers if isinstance(workers, int) else list(workers)
        with Crew(parts, devices, split, logging.getLogger(__name__).warning) as crew:
            adjust = keep_within(crew, report, started)
            way = enlarge(
                picture,
                crew,
                settings,
                canvas,
                report,
                notify=notify,
                adjust=adjust,
                on_preview=on_preview,
                on_step_end=end,
            )
        self.maybe_free_model_hooks()
        images = _as_type(canvas.pixels, canvas.alpha, picture, output_type)
        if not return_dict:
            return (images,)
        return PatchScalerOutput(
            images=images,
            alpha=canvas.alpha,
            confidence=way.confidence,
            groups=way.groups,
            patch_boxes=way.patch_boxes,
            report=report,
        )

    @property
    def parts(self) -> Parts:
        """The networks as the stages take them."""
        return Parts(
            autoencoder=self.autoencoder,
            restorer=self.restorer,
            patch_dit=self.patch_dit,
            texture_classifier=self.texture_classifier,
            texture_encoder=self.texture_encoder,
            texture_memory=self.texture_memory,
            second_restorer=self.second_restorer,
            fusion=self.fusion,
            alphas=self.scheduler.alphas_cumprod,
            overlap=int(self.config["overlap"]),
            run_on=self._execution_device if getattr(self, "_all_hooks", None) else None,
        )

    @property
    def interrupt(self) -> bool:
        """Whether a callback has asked this call to leave the patches as they are."""
        return self._interrupt

    def save_pretrained(self, save_directory: str | os.PathLike, *arguments: Any, **options: Any) -> None:
        """As diffusers', with the file `patchscaler_pipeline.py` by which DiffusionPipeline loads the folder."""
        super().save_pretrained(save_directory, *arguments, **options)
        write_custom_pipeline(Path(save_directory))

    def enable_sequential_cpu_offload(self, *arguments: Any, **options: Any) -> None:
        """Raises ConfigError: weights on the way one by one can't be folded, as Patch-DiT's are for sampling."""
        raise ConfigError("this pipeline offloads whole models only: use enable_model_cpu_offload")

    def restore(self, pixels: Float[Tensor, "1 3 height width"]) -> Restoration:
        """Coarse latents and log error of an LR picture in [0,1], at ceil(height / 2) x ceil(width / 2) latents."""
        return self.parts.grm(pixels)

    def prompt(self, patches: Float[Tensor, "n c V V"]) -> TextureCache:
        """`Parts.prompt`: keys and values of the textures for each coarse patch."""
        return self.parts.prompt(patches)


def _as_type(pixels: Tensor, alpha: Tensor | None, picture: Picture, output_type: str) -> Any:
    if output_type == "pt":
        return pixels
    if output_type == "np":
        return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy())
    return [to_pil(pixels, alpha, grey=picture.grey)]
