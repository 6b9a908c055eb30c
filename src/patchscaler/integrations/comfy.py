"""What the nodes of ComfyUI call: its IMAGE and MASK tensors in and out, the pipeline in between.

IMAGE is (b,height,width,3) float32 in [0,1] on the CPU, MASK (b,height,width); each picture of a batch is for itself.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from patchscaler.errors import ConfigError
from patchscaler.imaging.files import picture_from
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.qmap import draw_qmap
from patchscaler.imaging.resize import resize_bicubic
from patchscaler.inference.parts import default_dtype
from patchscaler.inference.settings import Quality
from patchscaler.models.texture import ReferenceTextureMemory
from patchscaler.pgs import pool_confidence
from patchscaler.pipeline import PatchScalerPipeline
from patchscaler.report import Progress, ProgressCallback
from patchscaler.sizes import enlarge

STAGES = ("restore", "second", "prompt", "sample", "decode", "colour")  # in the order of the work; each counts alike
Share = Callable[[float], None]  # told how much of the work is done, 0 to 1


def load_model(name: str, device: Any) -> PatchScalerPipeline:
    """A bundled model, folder or hub id, on a device, in the precision that is fast there. Raises WeightsError."""
    pipe: Any = PatchScalerPipeline.from_pretrained(name, dtype=default_dtype(str(device)))
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def with_memory(pipe: PatchScalerPipeline, memory: ReferenceTextureMemory) -> PatchScalerPipeline:
    """The same networks with another texture memory. Raises ConfigError for one that was built for another model."""
    for key in ("latent_channels", "sample_size", "features"):
        old, new = pipe.texture_memory.config[key], memory.config[key]
        if old != new:
            raise ConfigError(f"this texture memory has {key} {new}, the model {old}; build it with the model's parts")
    fitting = torch.nn.Module.to(memory, pipe.device, pipe.dtype)
    changed = PatchScalerPipeline(**{**pipe.components, "texture_memory": fitting}, overlap=int(pipe.config["overlap"]))
    changed.register_to_config(_name_or_path=pipe.name_or_path)
    return changed


def upscale(
    pipe: PatchScalerPipeline,
    images: Float[Tensor, "b h w c"],
    *,
    scale: float,
    quality: str,
    seed: int,
    denoise: float | None = None,
    wrap: bool = False,
    on_share: Share = lambda share: None,
) -> Float[Tensor, "b H W 3"]:
    """IMAGE -> IMAGE, `scale` (1 to 8) times as large; denoise and wrap as in `enlarge`. Raises ConfigError."""
    made = []
    for number, image in enumerate(images):
        result = enlarge(
            pipe,
            image.permute(2, 0, 1)[:3],
            scale=scale,
            quality=cast(Quality, quality),  # the call checks it
            seed=seed,
            denoise=denoise,
            wrap=wrap,
            on_progress=_within(on_share, number, len(images)),
        )
        made.append(result.pixels.cpu().permute(0, 2, 3, 1))
    return torch.cat(made).contiguous()


def _within(on_share: Share, number: int, count: int) -> ProgressCallback:
    """Progress of one picture of a batch, as a share of all."""

    def show(progress: Progress) -> None:
        part = (STAGES.index(progress.stage) + progress.done / max(progress.total, 1)) / len(STAGES)
        on_share((number + part) / count)

    return show


def difficulty(
    pipe: PatchScalerPipeline, images: Float[Tensor, "b h w c"]
) -> tuple[Float[Tensor, "b H W 3"], Float[Tensor, "b H W"]]:
    """IMAGE -> the enlarged picture under the colours of its groups, and the confidence as MASK, both x4."""
    maps, masks = [], []
    for image in images:
        pixels = picture_from(image.permute(2, 0, 1)[:3]).pixels
        found: Any = pipe(pixels[0], steps=(0, 0, 0), output_type="pt")
        size = Size(*found.images.shape[-2:])
        under = resize_bicubic(pixels, size, clamp=True)
        drawn = draw_qmap(under, found.groups.flatten(), found.patch_boxes, list(found.report.patches))
        # Without the legend, whose width depends on the picture.
        flat = picture_from(drawn.crop((0, 0, size.width, size.height))).pixels
        maps.append(flat.permute(0, 2, 3, 1))
        masks.append(pool_confidence(found.confidence.cpu(), size)[:, 0])
    return torch.cat(maps).contiguous(), torch.cat(masks)
