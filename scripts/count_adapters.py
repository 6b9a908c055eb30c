"""Evaluations per tile and seconds of every adapter with and without PGS, on tiny networks: the table of
docs/adapters.md.

    python scripts/count_adapters.py examples/parrot.png

The confidence is that of the bundled restorer on a real picture, so the groups are real; the networks have random
weights, so the seconds only compare a row with the one below it. Evaluations are counted at the U-Net.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import tiny_backbones
import torch
from PIL import Image

from patchscaler.integrations import ldm_upscale, sd_img2img, sd_upscale, stablesr
from patchscaler.integrations.frame import Coarse, Sampling, Upscaled
from patchscaler.pgs import GroupConfig
from patchscaler.upscaler import Upscaler

# Without PGS: every tile takes the 20 steps that hard ones take with it.
WAYS = {"all steps": GroupConfig(gammas=(), taus=(1000,), steps=(20,)), "PGS": GroupConfig()}
Adapter = Callable[..., Upscaled]


def rows_of(pipe: Any, adapter: Adapter, sampling: Sampling, coarse: Any) -> tuple[Upscaled, int, float]:
    """The result, the rows that the U-Net was asked for, and the least seconds of the processor, in one thread."""
    rows = 0

    def count(module: Any, arguments: tuple[Any, ...]) -> None:
        nonlocal rows
        rows += len(arguments[0])

    handle = pipe.unet.register_forward_pre_hook(count)
    made, seconds = adapter(pipe, coarse, sampling), []
    handle.remove()
    for _ in range(3):
        begin = time.process_time()
        adapter(pipe, coarse, sampling)
        seconds.append(time.process_time() - begin)
    return made, rows, min(seconds)


def main(path: str) -> None:
    coarse = Coarse.of(Upscaler()(Image.open(path).convert("RGB"), steps=(0, 0, 0)))
    sd, patch = tiny_backbones.stable_diffusion(16), 16
    cases: list[tuple[str, Any, Adapter, int]] = [
        ("Stable Diffusion img2img", sd, sd_img2img.upscale, patch),
        ("StableSR-style", sd, stablesr.upscale, patch),
        ("Stable Diffusion x4 upscaler", tiny_backbones.sd_upscaler(32), sd_upscale.upscale, 32),
        ("latent diffusion x4", tiny_backbones.latent_diffusion(32), ldm_upscale.upscale, 32),
    ]
    print("| adapter | steps | simple | medium | hard | evaluations per tile | U-Net rows per tile | core seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for name, pipe, adapter, side in cases:
        for way, groups in WAYS.items():
            made, rows, seconds = rows_of(pipe, adapter, Sampling(groups, patch=side), coarse)
            tiles = made.groups.numel()
            counts = [str(int((made.groups == group).sum())) for group in range(3)] if way == "PGS" else ["", "", tiles]
            print(
                f"| {name} | {way} | {' | '.join(map(str, counts))} | {made.evaluations.float().mean():.2f} "
                f"| {rows / tiles:.2f} | {seconds:.2f} |"
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
