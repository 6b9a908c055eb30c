"""Patches of a latent: where they lie, cutting them out, blending them back."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor

from patchscaler.errors import ConfigError
from patchscaler.imaging.geometry import Size


def patch_origins(length: int, patch: int, stride: int) -> list[int]:
    """First index of every patch along one side: multiples of `stride`, the last patch flush with the border.

    Raises ConfigError unless 1 <= stride <= patch <= length; pad a shorter side first (`pad_to_patch`).
    """
    if not 1 <= stride <= patch:
        raise ConfigError(f"stride {stride} must lie in [1, {patch}], the patch side, or patches leave gaps")
    if length < patch:
        raise ConfigError(f"a side of {length} is shorter than the patch side {patch}; pad it first (pad_to_patch)")
    count = math.ceil((length - patch) / stride) + 1
    return [min(index * stride, length - patch) for index in range(count)]


@dataclass(frozen=True)
class PatchGrid:
    """Square patches of side `patch` covering `size`, row-major; raises ConfigError as `patch_origins` does."""

    size: Size
    patch: int
    stride: int

    def __post_init__(self) -> None:
        patch_origins(min(self.size), self.patch, self.stride)

    @property
    def rows(self) -> tuple[int, ...]:
        """Top row of each line of patches."""
        return tuple(patch_origins(self.size.height, self.patch, self.stride))

    @property
    def cols(self) -> tuple[int, ...]:
        """Left column of each stack of patches."""
        return tuple(patch_origins(self.size.width, self.patch, self.stride))

    @property
    def count(self) -> int:
        """Number of patches, B."""
        return len(self.rows) * len(self.cols)


def padded_size(size: Size, patch: int) -> Size:
    """The smallest size that holds `size` and one patch."""
    return Size(max(size.height, patch), max(size.width, patch))


def pad_to_patch(latents: Float[Tensor, "n c h w"], patch: int) -> Float[Tensor, "n c H W"]:
    """Repeat the last row and column until both sides hold one patch; crop to the old size afterwards."""
    height, width = latents.shape[-2:]
    target = padded_size(Size(height, width), patch)
    if target == (height, width):
        return latents
    return F.pad(latents, (0, target.width - width, 0, target.height - height), mode="replicate")


def split(latents: Shaped[Tensor, "1 c h w"], grid: PatchGrid) -> Shaped[Tensor, "B c V V"]:
    """Cut out every patch of `grid`, row-major; dtype and device are kept. Raises ConfigError if the sizes differ."""
    if latents.shape[-2:] != grid.size:
        raise ConfigError(f"latents of size {tuple(latents.shape[-2:])} do not fit a grid of size {tuple(grid.size)}")
    rows = _covered(grid.rows, grid.patch, latents.device)[:, None, :, None]
    cols = _covered(grid.cols, grid.patch, latents.device)[None, :, None, :]
    return rearrange(latents[0, :, rows, cols], "c r q h w -> (r q) c h w")


def merge(patches: Float[Tensor, "B c V V"], grid: PatchGrid, window: Float[Tensor, "V V"]) -> Float[Tensor, "1 c h w"]:
    """Blend patches back: at each place the mean of the patches lying there, weighted by `window`.

    patches  in the order of `split`, any float dtype
    window   strictly positive weights, e.g. `raised_cosine_window`
    returns  float32, accumulated in float32; merge(split(x)) == x up to rounding

    Raises ConfigError if the number or side of the patches is not the grid's.
    """
    if len(patches) != grid.count or patches.shape[-1] != grid.patch:
        raise ConfigError(
            f"{len(patches)} patches of side {patches.shape[-1]} do not fit a grid of {grid.count} of side {grid.patch}"
        )
    weights = window.to(patches.device, torch.float32)
    total = _accumulate(patches.float() * weights, grid)
    return total / _accumulate(weights.expand(grid.count, 1, -1, -1), grid)


def raised_cosine_window(patch: int, overlap: int) -> Float[Tensor, "V V"]:
    """Weights in (0, 1], float32: flat in the middle, falling as a squared sine over the `overlap` with each neighbour.

    Two neighbours' ramps sum to one, so that up to half a patch of overlap the blend is a cross-fade; no overlap gives
    ones. Choice: beyond half a patch the ramp stays at half the patch (a Hann window) and `merge` divides by the sum.
    Raises ConfigError unless 0 <= overlap < patch.
    """
    if not 0 <= overlap < patch:
        raise ConfigError(f"overlap {overlap} must lie in [0, {patch - 1}], below the patch side {patch}")
    ramp = min(overlap, patch // 2)
    side = torch.ones(patch, dtype=torch.float64)
    if ramp:
        rise = torch.sin(math.pi / 2 * (torch.arange(ramp, dtype=torch.float64) + 0.5) / ramp) ** 2
        side[:ramp] = rise
        side[-ramp:] = rise.flip(0)
    return torch.outer(side, side).float()


def _covered(origins: tuple[int, ...], patch: int, device: torch.device) -> Tensor:
    """Indices (len(origins), patch) that each patch covers along one side."""
    return torch.tensor(origins, device=device)[:, None] + torch.arange(patch, device=device)


def _accumulate(patches: Tensor, grid: PatchGrid) -> Tensor:
    """Sum patches (B,c,V,V) at their places into (1,c,h,w): along the height, then along the width."""
    # Line by line, because index_add_ is fast on whole lines of the leading dimension and slow on single values.
    lines = rearrange(patches, "(r q) c h w -> (r h) (q c w)", r=len(grid.rows))
    rows = _covered(grid.rows, grid.patch, patches.device).flatten()
    tall = lines.new_zeros(grid.size.height, lines.shape[1]).index_add_(0, rows, lines)
    stacks = rearrange(tall, "H (q c w) -> (q w) (c H)", q=len(grid.cols), w=grid.patch)
    cols = _covered(grid.cols, grid.patch, patches.device).flatten()
    wide = stacks.new_zeros(grid.size.width, stacks.shape[1]).index_add_(0, cols, stacks)
    return rearrange(wide, "W (c H) -> 1 c H W", H=grid.size.height)
