"""What degradations are made of: filters and compression of one picture (3,H,W), RGB in [0,1], float32 on the CPU."""

import io

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F


def filtered(x: Float[Tensor, "3 H W"], kernel: Float[Tensor, "k k"]) -> Float[Tensor, "3 H W"]:
    """Each channel convolved with an odd-sized kernel, the border reflected (repeated where the picture is smaller than
    the kernel); by FFT, which beats a direct depthwise convolution from 9x9 on."""
    height, width = x.shape[-2:]
    reach = kernel.shape[-1] // 2
    mode = "reflect" if reach < min(height, width) else "replicate"
    padded = F.pad(x[None], (reach,) * 4, mode=mode)[0]
    # Sides with large prime factors make the FFT several times slower; the zeros reach only what is cut off.
    size = [-(-side // 16) * 16 for side in padded.shape[-2:]]
    spectrum = torch.fft.rfft2(padded, s=size) * torch.fft.rfft2(kernel, s=size)
    return torch.fft.irfft2(spectrum, s=size)[:, 2 * reach : 2 * reach + height, 2 * reach : 2 * reach + width]


def jpeg(
    x: Float[Tensor, "3 H W"], quality: tuple[int, int] | None, generator: np.random.Generator
) -> Float[Tensor, "3 H W"]:
    """Compressed by Pillow at a quality drawn evenly from low to high, both included; None: as it is."""
    if quality is None:
        return x
    drawn = int(generator.integers(quality[0], quality[1] + 1))
    pixels = rearrange((x.clamp(0, 1) * 255).round().to(torch.uint8), "c h w -> h w c").contiguous()
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, format="JPEG", quality=drawn)
    with Image.open(file) as compressed:
        decoded = np.array(compressed)
    return rearrange(torch.from_numpy(decoded), "h w c -> c h w").float() / 255
