"""Multiply-adds of every network, counted on their shapes without running them: the one counter of this project."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from patchscaler.errors import ConfigError
from patchscaler.imaging.geometry import Size
from patchscaler.measure.models import STRIDE
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.models.latents import decode_latents, encode_pixels
from patchscaler.models.loading import arguments_of


def count(networks: Mapping[str, Any], size: Size) -> dict[str, int]:
    """Multiply-adds in matrix products, convolutions and attention; elementwise work is not counted.

    networks  by the names of a model's parts; what is no network is passed over
    size      of the input in pixels; each place counted once, so that what tiles compute twice shows as a lower rate

    Of the whole picture: "encode" (of the input enlarged by interpolation), "restore" (without it), "second" (both
    restorers' answer, 0 without a second) and "decode". Of a patch: "classify", "retrieve", "encode_texture" and
    "keys". Of a patch and step: "denoise".
    """
    autoencoder = networks["autoencoder"]
    if isinstance(autoencoder, DctAutoencoder):
        # It caches its bases: real ones have to be there before, or shapes without values would stay in the cache.
        autoencoder.bases(torch.device("cpu"))
    with shapes_alone():
        parts: dict[str, Any] = {name: part for name, part in networks.items() if isinstance(part, torch.nn.Module)}
        twins = {name: type(part)(**arguments_of(part.config)).eval() for name, part in parts.items()}  # in float32
        return {name: _multiply_adds(call) for name, call in _calls(twins, size).items()}


def stages(
    counted: Mapping[str, int], from_pixels: bool, patches: int, patch_steps: int, asked: bool = False
) -> dict[str, int]:
    """By the names of a report's stages. from_pixels: the restorer needs no latents; asked: whether the second one was.

    The colour fix has none: it adds shifted pictures.
    """
    prompt = sum(counted[name] for name in ("classify", "retrieve", "encode_texture", "keys"))
    return {
        "restore": counted["restore"] + (0 if from_pixels else counted["encode"]),
        "second": asked * counted["second"],
        "prompt": patches * prompt,
        "sample": patch_steps * counted["denoise"],
        "decode": counted["decode"],
    }


@contextmanager
def shapes_alone() -> Iterator[None]:
    """Within, tensors have shapes and no values; attention has its plain form, of products that the counter knows."""
    with FakeTensorMode(allow_non_fake_inputs=True), sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        yield


def _calls(nets: dict[str, Any], size: Size) -> dict[str, Callable[[], Any]]:
    if "texture_memory" not in nets:
        raise ConfigError("FLOPs are counted of models whose prompt is texture")
    dit, memory, encoder, restorer = (
        nets[name] for name in ("patch_dit", "texture_memory", "texture_encoder", "restorer")
    )
    height, width = math.ceil(size.height / 2), math.ceil(size.width / 2)  # latents
    latents = torch.empty(1, dit.config["latent_channels"], height, width)
    pixels, large = latents.new_empty(1, 3, 2 * height, 2 * width), (1, 3, STRIDE * height, STRIDE * width)
    side, top_k = dit.config["sample_size"], encoder.config["top_k"]
    patch, error = latents.new_empty(1, latents.shape[1], side, side), latents.new_empty(1, 1, side, side)
    query, time = nets["texture_classifier"](patch), torch.zeros(1, dtype=torch.int64)
    found = memory.retrieve(query, top_k)
    textures = memory.read(found.places)
    tokens = encoder(textures, found.similarities)
    cache = dit.texture_cache(tokens)

    def second() -> None:
        if "fusion" in nets:
            first, features = restorer(pixels, with_features=True)
            nets["fusion"](features, first, nets["second_restorer"](pixels))

    return {
        "encode": lambda: encode_pixels(nets["autoencoder"], latents.new_empty(large)),
        "restore": lambda: restorer(pixels if restorer.input_kind == "pixels" else latents),
        "second": second,
        "decode": lambda: decode_latents(nets["autoencoder"], latents),
        "classify": lambda: nets["texture_classifier"](patch),
        "retrieve": lambda: memory.retrieve(query, top_k),
        "encode_texture": lambda: encoder(textures, found.similarities),
        "keys": lambda: dit.texture_cache(tokens),
        "denoise": lambda: dit(patch, time, patch, error, cache),
    }


def _multiply_adds(call: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops()) // 2
