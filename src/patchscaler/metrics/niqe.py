"""NIQE: how far a picture's local statistics lie from those of pristine photos; lower is better, no reference needed.

Source: Mittal, Soundararajan and Bovik, "Making a 'Completely Blind' Image Quality Analyzer", 2013, with the authors'
pristine model. On rounded BT.601 luma and blocks of 96x96, as MATLAB users and super-resolution papers do.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from patchscaler.imaging.colour import rgb_to_y

PARAMETERS = Path(__file__).parent / "parameters" / "niqe.safetensors"
PARAMETERS_SOURCE = "basicsr 1.4.2"
BLOCK = 96  # px
_SIGMA, _REACH = 7 / 6, 3  # px: the window that local mean and deviation are taken in
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))  # horizontal, vertical and both diagonal neighbours
# Keys' cubic (a = -0.5) widened by 2, at the eight pixels about each pixel of half the size: MATLAB's imresize.
_HALVING = tuple(weight / 1024 for weight in (-12, -36, 116, 444, 444, 116, -36, -12))


class Niqe:
    """NIQE with the published pristine model."""

    def __init__(self) -> None:
        pristine = load_file(PARAMETERS)
        self.mean, self.covariance = pristine["mean"], pristine["covariance"]
        shapes = torch.arange(200, 10001, dtype=torch.float64) / 1000
        self._shapes, self._ratios = shapes, _moment_ratio(shapes)

    @torch.no_grad()
    def __call__(self, pixels: Float[Tensor, "1 3 h w"]) -> float:
        """NIQE of a picture in [0,1]; not a number below two blocks that have any structure."""
        exact = (pixels.cpu().double() * 65535).round() / 65535  # 8- and 16-bit levels, without float32's error
        luma = (rgb_to_y(exact) * 255).round()
        rows, cols = luma.shape[-2] // BLOCK, luma.shape[-1] // BLOCK
        if rows * cols < 2:
            return math.nan
        luma = luma[..., : rows * BLOCK, : cols * BLOCK]
        features = torch.cat([self._features(luma, BLOCK), self._features(_halve(luma), BLOCK // 2)], dim=1)
        whole = features[~features.isnan().any(dim=1)]
        if len(whole) < 2:
            return math.nan
        offset = self.mean - features.nanmean(dim=0)
        inverse = torch.linalg.pinv((self.covariance + torch.cov(whole.T)) / 2)
        return math.sqrt(float(offset @ inverse @ offset))  # Eq. 10

    def _features(self, luma: Tensor, block: int) -> Float[Tensor, "B 18"]:
        """Shapes and widths of the distributions of normalised luma and of its neighbours' products, per block."""
        blocks = rearrange(_normalise(luma), "1 1 (r h) (c w) -> (r c) h w", h=block, w=block)
        shape, left, right = self._fit(blocks)
        columns = [shape, (left + right) / 2]
        for shift in _SHIFTS:
            shape, left, right = self._fit(blocks * blocks.roll(shift, (1, 2)))
            mean = (right - left) * (torch.lgamma(2 / shape) - torch.lgamma(1 / shape)).exp()
            columns += [shape, mean, left, right]
        return torch.stack(columns, dim=1)

    def _fit(self, blocks: Float[Tensor, "B h w"]) -> tuple[Tensor, Tensor, Tensor]:
        """Asymmetric generalised Gaussian by its moments: shape and both widths, (B,) each; Lasmar et al. 2009."""
        values = blocks.flatten(1)
        squares, negative, positive = values.square(), values < 0, values > 0
        left = ((squares * negative).sum(1) / negative.sum(1)).sqrt()
        right = ((squares * positive).sum(1) / positive.sum(1)).sqrt()
        skew = left / right
        ratio = values.abs().mean(1).square() / squares.mean(1)
        ratio = (ratio * (skew**3 + 1) * (skew + 1) / (skew.square() + 1).square()).nan_to_num(0.0)
        after = torch.searchsorted(self._ratios, ratio).clamp(1, len(self._ratios) - 1)
        before_is_nearer = (self._ratios[after - 1] - ratio).abs() <= (self._ratios[after] - ratio).abs()
        shape = self._shapes[after - before_is_nearer.long()]
        width = ((torch.lgamma(1 / shape) - torch.lgamma(3 / shape)) / 2).exp()
        return shape, left * width, right * width


def _moment_ratio(shape: Tensor) -> Tensor:
    """(E|x|)^2 / E x^2 of a generalised Gaussian; grows with its shape."""
    return (2 * torch.lgamma(2 / shape) - torch.lgamma(1 / shape) - torch.lgamma(3 / shape)).exp()


def _normalise(luma: Tensor) -> Tensor:
    """Luma less its local mean, over its local deviation, Eq. 1."""
    mean = _smooth(luma)
    deviation = (_smooth(luma.square()) - mean.square()).abs().sqrt()
    return (luma - mean) / (deviation + 1)


def _smooth(plane: Tensor) -> Tensor:
    """Gaussian mean, the border repeated.

    Written out, because on flat ground the rounding decides whether a place counts as negative, positive or neither:
    the order of the sum must be the same on every machine, which a library's convolution doesn't promise.
    """
    offsets = torch.arange(_REACH + 1, dtype=plane.dtype)
    gauss = (-offsets.square() / (2 * _SIGMA**2)).exp()
    weights = (gauss / (2 * gauss.sum() - 1)).tolist()
    for axis, padding in ((2, (0, 0, _REACH, _REACH)), (3, (_REACH, _REACH, 0, 0))):
        padded, side = F.pad(plane, padding, mode="replicate"), plane.shape[axis]
        plane = padded.narrow(axis, _REACH, side) * weights[0]
        for reach in range(_REACH, 0, -1):
            pair = padded.narrow(axis, _REACH - reach, side) + padded.narrow(axis, _REACH + reach, side)
            plane = plane + pair * weights[reach]
    return plane


def _halve(luma: Tensor) -> Tensor:
    """Half of both sides (even ones), bicubic with antialiasing, the border mirrored."""
    weights = torch.tensor(_HALVING, dtype=luma.dtype)
    for axis in (2, 3):
        side = luma.shape[axis]
        places = torch.arange(-3, side + 3)
        places = torch.where(places < 0, -1 - places, places)
        places = torch.where(places >= side, 2 * side - 1 - places, places)
        kernel = weights.view(1, 1, -1, 1) if axis == 2 else weights.view(1, 1, 1, -1)
        luma = F.conv2d(luma.index_select(axis, places), kernel, stride=(2, 1) if axis == 2 else (1, 2))
    return luma
