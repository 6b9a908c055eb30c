"""The way of one picture through PatchScaler: restore, cut, group, prompt, sample, blend, decode, colour fix."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.utils import BaseOutput, deprecation_utils, is_accelerate_available
from jaxtyping import Float
from torch import Tensor

from patchscaler.diffusion.noise import place_noise
from patchscaler.diffusion.pgs import GroupConfig, assign_groups, clean_latents, count_steps, sample
from patchscaler.errors import ConfigError, WeightsError
from patchscaler.imaging.colour import wavelet_colour_fix
from patchscaler.imaging.files import Picture, picture_from, to_pil
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.resize import resize_bicubic
from patchscaler.imaging.tiles import PatchGrid, merge, pad_to_patch, raised_cosine_window, split
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.models.latents import decode_tiled, encode_pixels
from patchscaler.models.patch_dit import PatchDiT, TextureCache
from patchscaler.models.restorer import ConvRestorer, Restoration, confidence_from
from patchscaler.models.swin_restorer import SwinRestorer
from patchscaler.models.texture import ReferenceTextureMemory, TextureClassifier, TextureEncoder
from patchscaler.report import Preview, PreviewCallback, Progress, ProgressCallback, Report
from patchscaler.storage import check_part, model_folder, read_json

SCALE = 4
STRIDE = 8  # d: pixels per latent
PARTS: dict[str, tuple[type[ModelMixin], ...]] = {  # the classes that a model folder's parts may have
    "restorer": (ConvRestorer, SwinRestorer),
    "patch_dit": (PatchDiT,),
    "texture_classifier": (TextureClassifier,),
    "texture_encoder": (TextureEncoder,),
    "texture_memory": (ReferenceTextureMemory,),
}
# diffusers has renamed the argument and warns of the old name.
_DTYPE_KEY = "dtype" if hasattr(deprecation_utils, "_resolve_dtype") else "torch_dtype"
# Patches whose texture keys and values are held at once; bounds memory, changes nothing else.
_CHUNK = 512


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
    prompt.
    """

    autoencoder: ModelMixin
    restorer: ConvRestorer | SwinRestorer
    patch_dit: PatchDiT
    texture_classifier: TextureClassifier
    texture_encoder: TextureEncoder
    texture_memory: ReferenceTextureMemory
    scheduler: DDIMScheduler

    model_cpu_offload_seq = "restorer->texture_classifier->texture_encoder->patch_dit->autoencoder"  # type: ignore[assignment]

    def __init__(
        self,
        autoencoder: ModelMixin,
        restorer: ModelMixin,
        patch_dit: PatchDiT,
        texture_classifier: TextureClassifier,
        texture_encoder: TextureEncoder,
        texture_memory: ReferenceTextureMemory,
        scheduler: DDIMScheduler,
        overlap: int = 4,
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
        )
        self.register_to_config(overlap=overlap)
        for part in (autoencoder, restorer, texture_classifier):
            part.to(memory_format=torch.channels_last)  # type: ignore[call-arg]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any = None, **kwargs: Any) -> "PatchScalerPipeline":
        """A model folder, hub id or bundled preset (None: "tiny"). `dtype`: bfloat16 where the processor multiplies it
        natively, else float32. Raises WeightsError for missing, unknown or wrongly shaped tensors, naming the file."""
        folder = model_folder(pretrained_model_name_or_path)
        if not os.path.isdir(folder) and (folder.count("/") != 1 or folder.startswith((".", "/"))):
            raise WeightsError(f"{folder}: no such model folder; name a folder, a hub id (owner/name) or leave it out")
        if os.path.isdir(folder):
            _check_folder(Path(folder))
        # Without accelerate diffusers asks everybody to install it; inference doesn't need it.
        kwargs.setdefault("low_cpu_mem_usage", is_accelerate_available())
        dtype = kwargs.pop("dtype", None) or kwargs.pop("torch_dtype", None) or default_dtype("cpu")
        try:
            pipeline = super().from_pretrained(folder, **{_DTYPE_KEY: dtype}, **kwargs)
        except (OSError, ValueError) as error:
            raise WeightsError(f"{folder}: {' '.join(str(error).split())}") from error
        # Without accelerate, diffusers leaves a part whose first tensor is whole numbers in its stored precision.
        torch.nn.Module.to(pipeline.texture_memory, dtype)
        return pipeline

    @torch.no_grad()
    def __call__(
        self,
        image: Any,
        *,
        scale: int = SCALE,
        seed: int = 0,
        output_type: str = "pil",
        steps: Sequence[int] = (8, 14, 20),
        gammas: Sequence[float] = (0.95, 0.75),
        taus: Sequence[int] = (400, 700, 1000),
        batch_size: int = 64,
        use_texture: bool = True,
        generator: torch.Generator | None = None,
        on_progress: ProgressCallback | None = None,
        on_preview: PreviewCallback | None = None,
        return_dict: bool = True,
    ) -> PatchScalerOutput | tuple[Any]:
        """Enlarges one picture.

        image        path, PIL image, numpy array, tensor (3,H,W) in [0,1] or Picture; any size from 1x1
        scale        4
        seed         of the noise field; `generator`, if given, draws it instead
        output_type  "pil", "np" or "pt"
        steps, taus  of the groups simple, medium, hard (Eq. 7); gammas: confidence thresholds between them (Eq. 2)
        batch_size   patches per network call; does not change the result beyond rounding
        use_texture  False: no texture prompt
        on_progress  called with a Progress after every unit of work
        on_preview   called with a Preview after the restoration and after every batch of patch-steps

        Returns PatchScalerOutput; its picture is exactly `scale` times the input. Raises ConfigError, ImageReadError.
        """
        if scale != SCALE:
            raise ConfigError(f"scale {scale}: this model enlarges x{SCALE}; patchscaler.enlarge makes any size of it")
        if output_type not in ("pil", "np", "pt"):
            raise ConfigError(f'output_type "{output_type}": choose pil, np or pt')
        if batch_size < 1:
            raise ConfigError(f"batch_size {batch_size} must be at least 1")
        if generator is not None:
            seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        config = GroupConfig(gammas=tuple(gammas), taus=tuple(taus), steps=tuple(steps))
        report = Report(device=str(self.device), dtype=str(self.dtype).removeprefix("torch."), seed=seed)
        notify = on_progress or (lambda progress: None)

        picture = image if isinstance(image, Picture) else picture_from(image)
        pixels = picture.pixels.to(self.device)
        size = Size(pixels.shape[-2] * SCALE, pixels.shape[-1] * SCALE)
        report.input_size, report.output_size = (pixels.shape[-2], pixels.shape[-1]), (size.height, size.width)

        with report.stage("restore"):
            coarse, log_error = self.restore(pixels)
            confidence = confidence_from(log_error, self.restorer.eta)
            notify(Progress("restore", 1, 1))
        patch = int(self.patch_dit.config["sample_size"])
        padded = pad_to_patch(coarse, patch)
        grid = PatchGrid(Size(*padded.shape[-2:]), patch, patch - int(self.config["overlap"]))
        patches, errors = split(padded, grid), split(pad_to_patch(log_error, patch), grid)
        groups = assign_groups(confidence_from(errors, self.restorer.eta).mean(dim=(1, 2, 3)), config.gammas)
        noise = split(place_noise(seed, coarse.shape[1], 0, 0, *grid.size), grid).to(self.device)
        window = raised_cosine_window(patch, int(self.config["overlap"])).to(self.device)

        def assemble(patches: Tensor, on_tile: Callable[[int, int], None] | None = None) -> Tensor:
            latents = merge(patches, grid, window)[..., : coarse.shape[-2], : coarse.shape[-1]]
            return decode_tiled(self.autoencoder, latents, on_tile=on_tile)[..., : size.height, : size.width]

        def fix_colours(result: Tensor) -> Tensor:
            return wavelet_colour_fix(result, resize_bicubic(pixels, size)).clamp_(0, 1)

        show = None
        if on_preview:
            clean, rows, boxes = patches.clone(), groups.reshape(len(grid.rows), len(grid.cols)), _boxes(grid, size)
            preview = Preview(lambda: fix_colours(assemble(clean)), rows, boxes)
            on_preview(preview)

            def show(index: Tensor, latents: Tensor) -> None:
                clean[index] = latents
                on_preview(preview)

        refined = self._refine(patches, errors, noise, groups, config, batch_size, use_texture, report, notify, show)
        with report.stage("decode"):
            result = assemble(refined, on_tile=lambda done, total: notify(Progress("decode", done, total)))
        with report.stage("colour"):
            result = fix_colours(result)
            alpha = None if picture.alpha is None else resize_bicubic(picture.alpha, size).clamp(0, 1)
            notify(Progress("colour", 1, 1))

        images = _as_type(result, alpha, picture, output_type)
        if not return_dict:
            return (images,)
        return PatchScalerOutput(
            images=images,
            alpha=alpha,
            confidence=confidence,
            groups=groups.reshape(len(grid.rows), len(grid.cols)),
            patch_boxes=_boxes(grid, size),
            report=report,
        )

    def restore(self, pixels: Float[Tensor, "1 3 height width"]) -> Restoration:
        """Coarse latents and log error of an LR picture in [0,1], at ceil(height / 2) x ceil(width / 2) latents."""
        even = torch.nn.functional.pad(pixels, (0, pixels.shape[-1] % 2, 0, pixels.shape[-2] % 2), mode="replicate")
        if self.restorer.input_kind == "pixels":
            return self.restorer(even.contiguous(memory_format=torch.channels_last))
        large = resize_bicubic(even, Size(even.shape[-2] * SCALE, even.shape[-1] * SCALE)).clamp(0, 1)
        return self.restorer(encode_pixels(self.autoencoder, large))

    def prompt(self, patches: Float[Tensor, "n c V V"]) -> TextureCache:
        """Algorithm 1: keys and values for Patch-DiT of the textures most similar to each coarse patch."""
        queries = self.texture_classifier(patches)
        found = self.texture_memory.retrieve(queries, int(self.texture_encoder.config["top_k"]))
        tokens = self.texture_encoder(self.texture_memory.read(found.places), found.similarities)
        return self.patch_dit.texture_cache(tokens)

    def _refine(
        self,
        patches: Tensor,
        errors: Tensor,
        noise: Tensor,
        groups: Tensor,
        config: GroupConfig,
        batch_size: int,
        use_texture: bool,
        report: Report,
        notify: ProgressCallback,
        show: Callable[[Tensor, Tensor], None] | None,
    ) -> Tensor:
        """Prompt and sample, chunk by chunk of patches; `show` gets the indices of a batch and its clean latents."""
        counts = count_steps(groups, config)
        report.patch_steps = total = counts.pop("patch_steps")
        report.patches, report.steps = counts, dict(zip(config.names, config.steps, strict=True))
        alphas = self.scheduler.alphas_cumprod.to(self.device)
        refined, before = torch.empty_like(patches), 0
        for start in range(0, len(patches), _CHUNK):
            part = slice(start, start + _CHUNK)
            coarse, error, texture = patches[part], errors[part], None
            if use_texture:
                with report.stage("prompt"):
                    texture = _in_batches(self.prompt, coarse, batch_size)
                    notify(Progress("prompt", min(start + _CHUNK, len(patches)), len(patches)))

            def denoise(
                x_t: Tensor,
                t: Tensor,
                index: Tensor,
                coarse: Tensor = coarse,
                error: Tensor = error,
                texture: TextureCache | None = texture,
                start: int = start,
            ) -> Tensor:
                chosen = None if texture is None else TextureCache(texture.keys[index], texture.values[index])
                prediction = self.patch_dit(x_t, t, coarse[index], error[index], chosen)
                if show:
                    kind = self.patch_dit.config["prediction_type"]
                    show(start + index, clean_latents(x_t, prediction.float(), alphas[t], kind))
                return prediction

            with report.stage("sample"):
                refined[part] = sample(
                    coarse,
                    groups[part],
                    noise[part],
                    denoise,
                    alphas,
                    config,
                    prediction_type=self.patch_dit.config["prediction_type"],
                    batch_size=batch_size,
                    on_step=lambda done, _, before=before: notify(Progress("sample", before + done, total)),
                )
            before += count_steps(groups[part], config)["patch_steps"]
        return refined


def default_dtype(device: str) -> torch.dtype:
    """bfloat16 where matrix products in it are native, float32 elsewhere: emulated bfloat16 is slower than float32."""
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if device == "cpu" and native else torch.float32


def _check_folder(folder: Path) -> None:
    """Strict check of all our parts in a model folder; the autoencoder's too unless it is a diffusers class."""
    for name, classes in {"autoencoder": (DctAutoencoder,), **PARTS}.items():
        class_name = _class_name(folder / name)
        matching = [cls for cls in classes if cls.__name__ == class_name]
        if matching:
            check_part(matching[0], folder / name)
        elif name != "autoencoder":
            raise WeightsError(f"{folder / name}: class {class_name} is none of {[c.__name__ for c in classes]}")


def _class_name(folder: Path) -> str:
    return str(read_json(folder / "config.json").get("_class_name", ""))


def _in_batches(prompt: Any, patches: Tensor, batch_size: int) -> TextureCache:
    parts = [prompt(patches[start : start + batch_size]) for start in range(0, len(patches), batch_size)]
    return TextureCache(torch.cat([p.keys for p in parts]), torch.cat([p.values for p in parts]))


def _boxes(grid: PatchGrid, size: Size) -> list[tuple[int, int, int, int]]:
    """Patches in output pixels, cut at the picture's border."""
    side = grid.patch * STRIDE
    return [
        (top * STRIDE, left * STRIDE, min(side, size.height - top * STRIDE), min(side, size.width - left * STRIDE))
        for top in grid.rows
        for left in grid.cols
    ]


def _as_type(pixels: Tensor, alpha: Tensor | None, picture: Picture, output_type: str) -> Any:
    if output_type == "pt":
        return pixels
    if output_type == "np":
        return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy())
    return [to_pil(pixels, alpha, grey=picture.grey)]
