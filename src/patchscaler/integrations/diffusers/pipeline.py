"""The diffusers pipeline: the parts of a model together, loaded, called, saved."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, get_args, overload

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from patchscaler.engines.torch import TorchEngine
from patchscaler.errors import ConfigError
from patchscaler.imaging.geometry import SCALE
from patchscaler.imaging.sources import OnePicture, pictures_from
from patchscaler.imaging.tiles import OVERLAP
from patchscaler.integrations.diffusers.calls import Calls, PipelineUpscaler, StepCallback, seeds_of, step_bar, step_end
from patchscaler.integrations.diffusers.output import PatchScalerBatch, PatchScalerOutput, batch_of, output_of
from patchscaler.integrations.diffusers.saving import SavedPipeline
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.models.fusion import Fusion
from patchscaler.models.model import PARTS, SECOND_PARTS, TEXTURE_PARTS, Model, channels_last
from patchscaler.models.patch_dit import PatchDiT, TextureCache
from patchscaler.models.restorer import ConvRestorer, Restoration
from patchscaler.models.rrdb import RrdbRestorer
from patchscaler.models.swin_restorer import SwinRestorer
from patchscaler.models.texture import ReferenceTextureMemory, TextureClassifier, TextureEncoder
from patchscaler.options import OptionNames, Options
from patchscaler.pgs.schedule import alphas_from, check_scheduler
from patchscaler.report import PreviewCallback, ProgressCallback
from patchscaler.stages.executor import Executor

if TYPE_CHECKING:
    from typing_extensions import Unpack

OneOrSeveral: TypeAlias = NDArray[Any] | Tensor  # by their dimensions
OutputType = Literal["pil", "np", "pt", "latent"]


class CallOptions(OptionNames, total=False):
    """All that the pipeline's call takes beside the picture and return_dict."""

    scale: int | float | None
    width: int | None
    height: int | None
    max_side: int | None
    output_type: OutputType
    workers: int | Sequence[str]
    split: str
    generator: torch.Generator | Sequence[torch.Generator] | None
    callback_on_step_end: StepCallback | None
    callback_on_step_end_tensor_inputs: Sequence[str]
    on_progress: ProgressCallback | None
    on_preview: PreviewCallback | None


class PatchScalerPipeline(SavedPipeline):
    """Enlarges a picture x4 (arXiv 2405.17158). `PatchScalerPipeline.from_pretrained()` loads the bundled model.

    The parts are an autoencoder, the restorer (GRM), Patch-DiT, and classifier, memory and encoder of the texture
    prompt (None where Patch-DiT's prompt is another); perhaps a second restorer and its fusion with the first.
    """

    autoencoder: DctAutoencoder | AutoencoderKL
    restorer: ConvRestorer | SwinRestorer
    patch_dit: PatchDiT
    texture_classifier: TextureClassifier | None
    texture_encoder: TextureEncoder | None
    texture_memory: ReferenceTextureMemory | None
    scheduler: DDIMScheduler
    second_restorer: RrdbRestorer | None
    fusion: Fusion | None

    _optional_components: ClassVar[list[str]] = [*SECOND_PARTS, *TEXTURE_PARTS]
    model_cpu_offload_seq = (
        "restorer->second_restorer->fusion->texture_classifier->texture_encoder->patch_dit->autoencoder"  # type: ignore[assignment]
    )

    _exclude_from_cpu_offload = ("texture_memory",)  # type: ignore[assignment]  # small, and has no parameters to follow
    _callback_tensor_inputs = ("latents",)

    def __init__(
        self,
        autoencoder: DctAutoencoder | AutoencoderKL,
        restorer: ConvRestorer | SwinRestorer,
        patch_dit: PatchDiT,
        texture_classifier: TextureClassifier | None,
        texture_encoder: TextureEncoder | None,
        texture_memory: ReferenceTextureMemory | None,
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
        # Without accelerate, diffusers leaves a part whose first tensor is whole numbers in its stored precision.
        if texture_memory is not None:
            nn.Module.to(texture_memory, patch_dit.dtype)
        self._calls = Calls()
        self._num_timesteps = 0
        self._origin: Path | None = None
        self.set_progress_bar_config(disable=None)  # drawn on a terminal, and not into a file

    @overload
    def __call__(
        self, image: OnePicture, *, return_dict: Literal[True] = True, **options: "Unpack[CallOptions]"
    ) -> PatchScalerOutput: ...

    @overload
    def __call__(
        self, image: list[Any] | tuple[Any, ...], *, return_dict: Literal[True] = True, **options: "Unpack[CallOptions]"
    ) -> PatchScalerBatch: ...

    @overload
    def __call__(
        self, image: OneOrSeveral, *, return_dict: Literal[True] = True, **options: "Unpack[CallOptions]"
    ) -> Any: ...

    @overload
    def __call__(self, image: Any, *, return_dict: Literal[False], **options: "Unpack[CallOptions]") -> tuple[Any]: ...

    def __call__(
        self,
        image: Any,
        *,
        scale: int | float | None = None,
        width: int | None = None,
        height: int | None = None,
        max_side: int | None = None,
        output_type: str = "pil",  # the overloads say which, to type checkers
        workers: int | Sequence[str] = 1,
        split: str = "cost",
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        on_progress: ProgressCallback | None = None,
        on_preview: PreviewCallback | None = None,
        return_dict: bool = True,
        **options: "Unpack[OptionNames]",
    ) -> PatchScalerOutput | PatchScalerBatch | tuple[Any]:
        """Enlarges one picture, or several, one after the other.

        image, scale, width, height, max_side, on_preview  as in Upscaler's call
        options      of Options: seed, quality, steps, budget, denoise, gammas, taus, batch_size, use_texture, wrap
        output_type  "pil", "np", "pt" or "latent": blended latents, of x4 only
        workers      processes that share the patches, or the device of each: ("cuda:0", "cuda:1"). They are started for
                     this call, so a script that asks for them needs the usual `if __name__ == "__main__":`
        split        of the patches among workers: "cost", or "groups" as in the paper (hard | the others)
        generator    draws the seed instead, or a list of them for each picture
        callback_on_step_end  as in diffusers: called with (pipeline, step, timestep, {"latents": ...}) after each step;
                     latents it returns replace those of the patches, and `pipe._interrupt = True` leaves them as they
                     are. Steps and time are those of the hardest patches; of more than 256 patches with steps, each
                     256 take theirs in turn. Not with workers
        on_progress  called with a Progress after every unit of work; None: a bar, as set_progress_bar_config has it

        Returns PatchScalerOutput, or PatchScalerBatch for several. An autocast around the call has no effect: the parts
        have their precision. Raises ConfigError, ImageReadError.
        """
        latent = output_type == "latent"
        if output_type not in get_args(OutputType):
            raise ConfigError(f'output_type "{output_type}": choose {", ".join(get_args(OutputType))}')
        if latent and ({width, height, max_side} != {None} or scale not in (None, SCALE)):
            raise ConfigError(f'output_type "latent" is of pictures x{SCALE}: leave the size out')
        chosen = Options(**options)
        pictures, several = pictures_from(image)
        engine = TorchEngine(self.parts, self.name_or_path or "unnamed")
        devices = [engine.device] * workers if isinstance(workers, int) else list(workers)
        with ExitStack() as stack:
            for device in {"cpu", self.parts.device.type}:
                stack.enter_context(torch.autocast(device, enabled=False))
            call = stack.enter_context(self._calls.running())
            on_step_end = step_end(self, call, callback_on_step_end, callback_on_step_end_tensor_inputs, workers)
            executor = Executor(engine, devices, split, logging.getLogger(__name__).warning)
            upscaler = stack.enter_context(PipelineUpscaler(executor, on_step_end, self._note, latent))
            notify = on_progress or stack.enter_context(step_bar(self))
            results = []
            for picture, seed in zip(pictures, seeds_of(len(pictures), chosen.seed, generator), strict=True):
                result = upscaler(
                    replace(picture, alpha=None) if latent else picture,
                    scale=scale,
                    width=width,
                    height=height,
                    max_side=max_side,
                    on_progress=notify,
                    on_preview=on_preview,
                    options=replace(chosen, seed=seed),
                )
                results.append(output_of(result, output_type, self.parts.device))
                if call.interrupted:  # those that are left stay as the restorer makes them
                    chosen = chosen.restoring()
        self.maybe_free_model_hooks()
        output = batch_of(results) if several else results[0]
        return output if return_dict else (output.images,)

    @property
    def parts(self) -> Model:
        """The networks as the stages take them. Raises ConfigError for a scheduler that would change nothing."""
        check_scheduler(self.scheduler)
        return Model(
            **{name: getattr(self, name) for name in ("autoencoder", *PARTS, *SECOND_PARTS)},
            alphas=alphas_from(self.scheduler.config),
            overlap=int(self.config["overlap"]),
            run_on=self._execution_device,
        )

    @property
    def interrupt(self) -> bool:
        """Whether this call (or the last one) has been asked to leave the patches as they are."""
        return self._calls.interrupted

    @property
    def _interrupt(self) -> bool:
        return self._calls.interrupted

    @_interrupt.setter
    def _interrupt(self, wanted: bool) -> None:
        self._calls.interrupt(wanted)

    def _note(self, options: Options) -> None:
        self._num_timesteps = options.groups.steps[-1]

    @property
    def num_timesteps(self) -> int:
        """Steps of the hardest patches of the picture in work, or of the last one."""
        return self._num_timesteps

    def restore(self, pixels: Float[Tensor, "1 3 height width"]) -> Restoration:
        """Coarse latents and log error of an LR picture in [0,1], at ceil(height / 2) x ceil(width / 2) latents."""
        return self.parts.grm(pixels)

    def prompt(self, patches: Float[Tensor, "n c V V"]) -> TextureCache:
        """`Model.prompt`: keys and values of the prompt of each coarse patch."""
        return self.parts.prompt(patches)
