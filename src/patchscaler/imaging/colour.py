"""Luma, and the wavelet colour fix: the result keeps its detail and takes its colours from the upsampled input."""

import torch
from jaxtyping import Float
from torch import Tensor

# Choice: one more than is usual: the band that five leave has noisy inputs' coarse grain in it (docs/lab/steps.md)
COLOUR_LEVELS = 6
WAVELET_REACH = 2**COLOUR_LEVELS - 1  # px: dilations 1 + 2 + 4 ...; the halo with which a tile gets the same values


def rgb_to_y(pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1 h w"]:
    """Studio-range luma of BT.601, as MATLAB's rgb2ycbcr but unrounded.

    RGB in [0, 1] gives Y in [16/255, 235/255].
    """
    red, green, blue = pixels.split(1, dim=1)
    return (65.481 * red + 128.553 * green + 24.966 * blue + 16.0) / 255.0


def wavelet_colour_fix(
    result: Float[Tensor, "n 3 h w"], reference: Float[Tensor, "n 3 h w"], levels: int = COLOUR_LEVELS
) -> Float[Tensor, "n 3 h w"]:
    """High bands of `result` plus the low band of `reference`; both (N,3,H,W) float32 RGB in [0, 1], of one shape.

    The low band is what `levels` undecimated levels leave: kernel [1 2 1]/4 along both axes, dilated by 1, 2, 4, ...,
    the border replicated. The result may leave [0, 1] a little. Needs one output plus three single-channel buffers.
    A pixel depends on those at most 2^levels - 1 away (WAVELET_REACH by default).

    Raises ValueError if the shapes differ.
    """
    if result.shape != reference.shape:
        raise ValueError(f"result {tuple(result.shape)} and reference {tuple(reference.shape)} must have one shape")
    # The low pass is linear: result - low(result) + low(reference) = result + low(reference - result), so one pass.
    fixed = torch.empty_like(result)
    for out, image, target in zip(fixed.flatten(0, 1), result.flatten(0, 1), reference.flatten(0, 1), strict=True):
        low = target - image
        spare = torch.empty_like(low)
        for level in range(levels):
            _smooth(low, spare, distance=2**level)
            _smooth(spare.T, low.T, distance=2**level)
        torch.add(image, low, out=out)
    return fixed


def _smooth(source: Tensor, out: Tensor, distance: int) -> None:
    """[1 2 1]/4 over the rows of a plane, taps `distance` rows apart, border replicated; written into `out`."""
    torch.mul(source, 0.5, out=out)
    quarter = source * 0.25
    out[distance:] += quarter[:-distance]
    out[:distance] += quarter[:1]
    out[:-distance] += quarter[distance:]
    out[-distance:] += quarter[-1:]
