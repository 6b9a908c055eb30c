"""Multiply-adds of every stage, counted on the real networks without running them."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from patchscaler.imaging.geometry import STRIDE, Size
from patchscaler.integrations.diffusers.pipeline import PatchScalerPipeline
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.models.latents import decode_latents, encode_pixels


class Arithmetic(NamedTuple):
    """Multiply-adds in matrix products, convolutions and attention; elementwise work is not counted.

    restore, decode  of a whole picture of the size asked for
    second           of the same by both restorers
    prompt           of one patch
    denoise          of one patch-step
    """

    restore: int
    second: int
    decode: int
    prompt: int
    denoise: int

    def stages(self, patches: int, patch_steps: int, asked: bool = False) -> dict[str, int]:
        """By the names of the report's stages; asked: whether the second restorer was. The colour fix has none: it adds
        shifted pictures."""
        return {
            "restore": self.restore,
            "second": asked * self.second,
            "prompt": patches * self.prompt,
            "sample": patch_steps * self.denoise,
            "decode": self.decode,
        }


def count(pipeline: PatchScalerPipeline, size: Size) -> Arithmetic:
    """Arithmetic of an input of `size` pixels, each place counted once.

    What tiles compute twice is not counted, so that it shows as a lower share of the machine's rate.
    """
    if isinstance(pipeline.autoencoder, DctAutoencoder):
        # It caches its bases: real ones have to be there before, or shapes without values would stay in the cache.
        pipeline.autoencoder.bases(torch.device("cpu"))
    # Networks of shapes alone. The plain form of attention is made of products that the counter knows.
    with FakeTensorMode(allow_non_fake_inputs=True), sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        return _count_shapes(pipeline, size)


def _count_shapes(pipeline: PatchScalerPipeline, size: Size) -> Arithmetic:
    nets = {name: _float32_twin(part) for name, part in pipeline.components.items() if isinstance(part, ModelMixin)}
    dit, memory, encoder = nets["patch_dit"], nets["texture_memory"], nets["texture_encoder"]
    height, width = math.ceil(size.height / 2), math.ceil(size.width / 2)  # latents
    latents = torch.empty(1, dit.config["latent_channels"], height, width)
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

    def second() -> None:
        if pipeline.fusion is None:
            return
        pixels = latents.new_empty(1, 3, 2 * height, 2 * width)
        first, features = nets["restorer"](pixels, with_features=True)
        nets["fusion"](features, first, nets["second_restorer"](pixels))

    time, texture = torch.zeros(1, dtype=torch.int64), prompt()
    return Arithmetic(
        restore=_counted(restore),
        second=_counted(second),
        decode=_counted(lambda: decode_latents(nets["autoencoder"], latents)),
        prompt=_counted(prompt),
        denoise=_counted(lambda: dit(patch, time, patch, error, texture)),
    )


def _float32_twin(part: ModelMixin) -> Any:
    cls: Any = type(part)
    return cls.from_config(part.config).eval()


def _counted(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops()) // 2
