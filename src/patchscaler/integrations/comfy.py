"""What the nodes of ComfyUI call: its IMAGE and MASK tensors in and out, our Upscaler in between.

IMAGE is (b,height,width,3) float32 in [0,1] on the CPU, MASK (b,height,width); each picture of a batch is for itself.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from patchscaler.engines.torch import TorchEngine
from patchscaler.errors import ConfigError
from patchscaler.imaging.qmap import draw_qmap
from patchscaler.imaging.resize import resize_bicubic
from patchscaler.imaging.sources import picture_from
from patchscaler.models.texture import ReferenceTextureMemory
from patchscaler.options import Quality
from patchscaler.pgs.plug_in import pool_confidence
from patchscaler.report import Progress, ProgressCallback
from patchscaler.upscaler import Upscaler

STAGES = ("restore", "second", "prompt", "sample", "decode", "colour")  # in the order of the work; each counts alike
Share = Callable[[float], None]  # told how much of the work is done, 0 to 1


def load_model(name: str, device: Any) -> Upscaler:
    """A bundled model, folder or hub id, on a device, in the precision that is fast there. Raises WeightsError."""
    return Upscaler(name, "torch", device=str(device))


def with_memory(upscaler: Upscaler, memory: ReferenceTextureMemory) -> Upscaler:
    """The same networks with another texture memory. Raises ConfigError for one that was built for another model."""
    assert isinstance(upscaler.engine, TorchEngine)
    networks = upscaler.engine.networks
    if networks.texture_memory is None:
        raise ConfigError("this model's prompts are no textures: it takes no texture memory")
    for key in ("latent_channels", "sample_size", "features"):
        old, new = networks.texture_memory.config[key], memory.config[key]
        if old != new:
            raise ConfigError(f"this texture memory has {key} {new}, the model {old}; build it with the model's parts")
    fitting = torch.nn.Module.to(memory, networks.device, networks.dtype)
    return Upscaler(engine=TorchEngine(replace(networks, texture_memory=fitting), upscaler.engine.model.name))


def upscale(
    upscaler: Upscaler,
    images: Float[Tensor, "b h w c"],
    *,
    scale: float,
    quality: str,
    seed: int,
    denoise: float | None = None,
    wrap: bool = False,
    on_share: Share = lambda share: None,
) -> Float[Tensor, "b H W 3"]:
    """IMAGE -> IMAGE, `scale` (1 to 8) times as large; denoise and wrap as in Options. Raises ConfigError."""
    made = []
    for number, image in enumerate(images):
        result = upscaler(
            image.permute(2, 0, 1)[:3],
            scale=scale,
            quality=cast(Quality, quality),  # the call checks it
            seed=seed,
            denoise=denoise,
            wrap=wrap,
            on_progress=_within(on_share, number, len(images)),
        )
        made.append(torch.from_numpy(result.pixels).permute(0, 2, 3, 1))
    return torch.cat(made).contiguous()


def _within(on_share: Share, number: int, count: int) -> ProgressCallback:
    """Progress of one picture of a batch, as a share of all."""

    def show(progress: Progress) -> None:
        part = (STAGES.index(progress.stage) + progress.done / max(progress.total, 1)) / len(STAGES)
        on_share((number + part) / count)

    return show


def difficulty(
    upscaler: Upscaler, images: Float[Tensor, "b h w c"]
) -> tuple[Float[Tensor, "b H W 3"], Float[Tensor, "b H W"]]:
    """IMAGE -> the enlarged picture under the colours of its groups, and the confidence as MASK, both x4."""
    maps, masks = [], []
    for image in images:
        found = upscaler(image.permute(2, 0, 1)[:3], steps=(0, 0, 0))
        under = resize_bicubic(found.source.pixels, found.size, clamp=True)
        drawn = draw_qmap(under, found.groups.flatten(), found.patch_boxes, list(found.report.patches))
        # Without the legend, whose width depends on the picture.
        flat = picture_from(drawn.crop((0, 0, found.size.width, found.size.height))).pixels
        maps.append(torch.from_numpy(flat).permute(0, 2, 3, 1))
        masks.append(pool_confidence(torch.from_numpy(found.confidence), found.size)[:, 0])
    return torch.cat(maps).contiguous(), torch.cat(masks)
