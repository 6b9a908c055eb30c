"""Bicubic resizing that agrees with Pillow's, on float pictures."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from patchscaler.imaging.geometry import Size


def resize_bicubic(
    pixels: Float[Tensor, "n c h w"], size: Size, antialias: bool = True, clamp: bool = False
) -> Float[Tensor, "n c h2 w2"]:
    """Resize `pixels` (N,C,H,W) to `size`, half-pixel centres.

    antialias  True: Pillow's BICUBIC (Keys' cubic with a = -0.5, its support widened by the factor when shrinking).
               False: the four nearest pixels alone and a = -0.75, as OpenCV's INTER_CUBIC; shrinking then aliases.
    clamp      cut the cubic's overshoot to [0, 1]; without it the result may leave the input's range by about 15 %.

    Raises ValueError if a side of `size` is below 1.
    """
    if min(size) < 1:
        raise ValueError(f"cannot resize to {size.height}x{size.width}: both sides must be at least 1")
    if size.width == 1 and antialias:
        # torch (2.13 too) gets the height wrong when the result is one pixel wide: do the width, then the height lying.
        column = _bicubic(pixels, Size(pixels.shape[-2], 1), antialias)
        resized = _bicubic(column.mT, Size(1, size.height), antialias).mT.contiguous()
    else:
        resized = _bicubic(pixels, size, antialias)
    return resized.clamp_(0.0, 1.0) if clamp else resized


def _bicubic(pixels: Tensor, size: Size, antialias: bool) -> Tensor:
    return F.interpolate(pixels, size=tuple(size), mode="bicubic", align_corners=False, antialias=antialias)
