"""Bicubic resizing that agrees with Pillow's, on float pictures."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from patchscaler.imaging.geometry import Size

CUBIC_REACH = 3  # px: a cubic's support on each side, and one more for what lies between two pixels


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


def enlarge_rows(pixels: Float[Tensor, "n c h w"], factor: int, top: int, bottom: int) -> Float[Tensor, "n c h2 w2"]:
    """Rows [top, bottom) of `pixels` resized to `factor` times their size, from the rows that they depend on alone.

    Equal to those rows of `resize_bicubic`, up to rounding. Raises ValueError for rows that are not there.
    """
    height, width = pixels.shape[-2:]
    if not 0 <= top < bottom <= factor * height:
        raise ValueError(f"rows {top} to {bottom} are not among the {factor * height} of the result")
    first, last = max(top // factor - CUBIC_REACH, 0), min(-(-bottom // factor) + CUBIC_REACH, height)
    part = resize_bicubic(pixels[..., first:last, :], Size(factor * (last - first), factor * width))
    return part[..., top - factor * first : bottom - factor * first, :]


def _bicubic(pixels: Tensor, size: Size, antialias: bool) -> Tensor:
    return F.interpolate(pixels, size=tuple(size), mode="bicubic", align_corners=False, antialias=antialias)
