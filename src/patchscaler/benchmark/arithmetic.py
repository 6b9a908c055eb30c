"""Multiply-adds of every stage, counted on the real networks without running them."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch.utils.flop_counter import FlopCounterMode

from patchscaler.imaging.geometry import Size
from patchscaler.models.latents import decode_latents, encode_pixels
from patchscaler.pipeline import STRIDE, PatchScalerPipeline


class Arithmetic(NamedTuple):
    """Multiply-adds in matrix products, convolutions and attention; elementwise work is not counted.

    restore, decode  of a whole picture of the size asked for
    prompt           of one patch
    denoise          of one patch-step
    """

    restore: int
    decode: int
    prompt: int
    denoise: int

    def stages(self, patches: int, patch_steps: int) -> dict[str, int]:
        """By the names of the report's stages. The colour fix has none: it adds shifted pictures."""
        return {
            "restore": self.restore,
            "prompt": patches * self.prompt,
            "sample": patch_steps * self.denoise,
            "decode": self.decode,
        }


def count(pipeline: PatchScalerPipeline, size: Size) -> Arithmetic:
    """Arithmetic of an input of `size` pixels, each place counted once.

    What tiles compute twice is not counted, so that it shows as a lower share of the machine's rate.
    """
    nets = {name: _shapes_only(part) for name, part in pipeline.components.items() if isinstance(part, ModelMixin)}
    dit, memory, encoder = nets["patch_dit"], nets["texture_memory"], nets["texture_encoder"]
    height, width = math.ceil(size.height / 2), math.ceil(size.width / 2)  # latents
    latents = torch.empty(1, dit.config["latent_channels"], height, width, device="meta")
    side, top_k = dit.config["sample_size"], encoder.config["top_k"]
    patch, error = latents.new_empty(1, latents.shape[1], side, side), latents.new_empty(1, 1, side, side)

    def restore() -> None:
        if pipeline.restorer.input_kind == "pixels":
            nets["restorer"](latents.new_empty(1, 3, 2 * height, 2 * width))
        else:
            enlarged = latents.new_empty(1, 3, STRIDE * height, STRIDE * width)
            nets["restorer"](encode_pixels(nets["autoencoder"], enlarged))

    def prompt() -> Any:
        found = memory.retrieve(nets["texture_classifier"](patch), top_k)
        return dit.texture_cache(encoder(memory.read(found.places), found.similarities))

    with torch.no_grad():
        texture = prompt()
        time = torch.empty(1, dtype=torch.int64, device="meta")
        return Arithmetic(
            restore=_counted(restore),
            decode=_counted(lambda: decode_latents(nets["autoencoder"], latents)),
            prompt=_counted(prompt),
            denoise=_counted(lambda: dit(patch, time, patch, error, texture)),
        )


def _shapes_only(part: ModelMixin) -> Any:
    """A float32 copy whose tensors have shapes and no values; SDPA then is made of products that the counter knows."""
    cls: Any = type(part)
    with torch.device("meta"):
        bare = cls.from_config(part.config)
    return bare.eval()


def _counted(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops()) // 2
