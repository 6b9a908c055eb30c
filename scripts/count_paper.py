"""Count parameters and arithmetic of both presets, and rewrite the table in docs/paper-preset.md.

Run: python scripts/count_paper.py. Nothing is computed: networks and inputs are fake tensors, which know only shapes.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from patchscaler.models.latents import decode_latents, encode_pixels
from patchscaler.presets import PAPER, TINY, Preset, build_networks

PAGE = Path(__file__).parents[1] / "docs" / "paper-preset.md"
BEGIN, END = "<!-- counts: begin -->\n", "<!-- counts: end -->\n"

SIDE = 1024  # pixels of the counted output: one megapixel of 2^20
LATENTS = SIDE // 8


class Row(NamedTuple):
    part: str
    parameters: int | None
    work: float
    unit: str


def multiply_adds(call: Callable[[], object]) -> float:
    """Multiply-adds of matrix products, convolutions and attention in one call."""
    # As plain matrix products, because the counter doesn't know the fused attention of CPUs.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        call()
    return counter.get_total_flops() / 2


def parameters(network: ModelMixin) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def rows(preset: Preset) -> Iterator[Row]:
    """Call under FakeTensorMode. Work per patch is that of one patch of side V with K textures."""
    networks: Any = build_networks(preset)
    for network in networks:
        network.requires_grad_(False)
    channels, side = preset.patch_dit.config["latent_channels"], preset.patch_dit.config["sample_size"]
    top_k = preset.texture_encoder.config["top_k"]
    pixels, latents = torch.zeros(1, 3, SIDE, SIDE), torch.zeros(1, channels, LATENTS, LATENTS)
    lr = torch.zeros(1, 3, SIDE // 4, SIDE // 4)
    patch, log_error = torch.zeros(1, channels, side, side), torch.zeros(1, 1, side, side)
    textures, similarities = torch.zeros(1, top_k, channels, side, side), torch.zeros(1, top_k)
    time = torch.zeros(1, dtype=torch.int64)
    tokens = networks.texture_encoder(textures, similarities)
    cache = networks.patch_dit.texture_cache(tokens)

    autoencoder, restorer, dit = networks.autoencoder, networks.restorer, networks.patch_dit
    encode = multiply_adds(lambda: encode_pixels(autoencoder, pixels))
    yield Row("autoencoder, encode", parameters(autoencoder), encode, "output megapixel")
    decode = multiply_adds(lambda: decode_latents(autoencoder, latents))
    yield Row("autoencoder, decode", None, decode, "output megapixel")
    restore = multiply_adds(lambda: restorer(lr if restorer.input_kind == "pixels" else latents))
    yield Row("GRM", parameters(restorer), restore / LATENTS**2, "latent")
    classify = multiply_adds(lambda: networks.texture_classifier(patch))
    yield Row("texture classifier", parameters(networks.texture_classifier), classify, "patch")
    encode_texture = multiply_adds(lambda: networks.texture_encoder(textures, similarities))
    yield Row("texture encoder", parameters(networks.texture_encoder), encode_texture, "patch")
    step = multiply_adds(lambda: dit(patch, time, patch, log_error, cache))
    yield Row("Patch-DiT", parameters(dit), step, "patch and step")
    keys = multiply_adds(lambda: dit.texture_cache(tokens))
    yield Row("Patch-DiT, texture keys and values", None, keys, "patch")


def table() -> str:
    """The counts as Markdown."""
    lines = ["| preset | part | parameters | multiply-adds, millions | per |", "|---|---|---:|---:|---|"]
    for name, preset in (("tiny", TINY), ("paper", PAPER)):
        with FakeTensorMode(allow_non_fake_inputs=True):
            counted = list(rows(preset))
        for row in counted:
            count = "" if row.parameters is None else f"{row.parameters:,}"
            lines.append(f"| `{name}` | {row.part} | {count} | {row.work / 1e6:,.2f} | {row.unit} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(before + BEGIN + table() + END + after, encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
