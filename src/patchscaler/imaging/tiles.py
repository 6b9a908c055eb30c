"""Patches of a latent: where they lie, cutting them out, blending them back."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from patchscaler.errors import ConfigError
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.shapes import Float

# Choice: of neighbouring patches, in latents, unless a model says otherwise. Measured in docs/speed.md.
OVERLAP = 2


class Tile(NamedTuple):
    """A rectangle of a larger plane: rows [top, bottom), columns [left, right)."""

    top: int
    bottom: int
    left: int
    right: int

    def of(self, plane: Any) -> Any:
        """This part (...,h,w) of an array or tensor (...,H,W); a view."""
        return plane[..., self.top : self.bottom, self.left : self.right]

    def widened(self, halo: int, size: Size) -> "Tile":
        """With up to `halo` more on each side, as far as a plane of `size` goes."""
        return Tile(
            max(self.top - halo, 0),
            min(self.bottom + halo, size.height),
            max(self.left - halo, 0),
            min(self.right + halo, size.width),
        )

    def within(self, outer: "Tile") -> "Tile":
        """The same rectangle, counted from the corner of `outer`."""
        return Tile(self.top - outer.top, self.bottom - outer.top, self.left - outer.left, self.right - outer.left)

    def times(self, factor: int) -> "Tile":
        """The same rectangle on a plane `factor` times as fine."""
        return Tile(*(factor * edge for edge in self))

    @property
    def area(self) -> int:
        return (self.bottom - self.top) * (self.right - self.left)


def spans(length: int, count: int) -> list[tuple[int, int]]:
    """[0, length) in `count` spans, about equally long: a thin last one would be mostly halo."""
    return [(index * length // count, (index + 1) * length // count) for index in range(count)]


def plan_tiles(size: Size, halo: int, area: int) -> list[Tile]:
    """Tiles that cover `size`, row-major: the division with the least work of which each tile with its halo has at most
    `area` places. Where nothing that small is left, single places.
    """
    best: list[Tile] = []
    for rows in range(1, size.height + 1):
        high = math.ceil(size.height / rows) + 2 * halo * (rows > 1)
        fitting = area // high - 2 * halo  # places of a tile's width, if there are several
        if high * size.width > area and fitting < 1:
            continue
        cols = 1 if high * size.width <= area else math.ceil(size.width / fitting)
        tiles = _division(size, rows, cols)
        if not best or _work(tiles, halo, size) < _work(best, halo, size):
            best = tiles
        if cols == 1:  # more rows only add halo
            break
    return best or _division(size, *size)


def _division(size: Size, rows: int, cols: int) -> list[Tile]:
    return [Tile(*row, *col) for row in spans(size.height, rows) for col in spans(size.width, cols)]


def _work(tiles: list[Tile], halo: int, size: Size) -> int:
    return sum(tile.widened(halo, size).area for tile in tiles)


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


def pad_to_patch(latents: Any, patch: int) -> Any:
    """Repeat the last row and column until both sides hold one patch; crop to the old size afterwards."""
    return pad_to(latents, padded_size(Size(*latents.shape[-2:]), patch))


def pad_to(plane: Any, size: Size) -> Any:
    """An array or tensor (...,h,w) whose last row and column are repeated up to `size`, which is no smaller."""
    height, width = plane.shape[-2:]
    if size == (height, width):
        return plane
    rows, cols = (np.minimum(np.arange(side), own - 1) for side, own in zip(size, (height, width), strict=True))
    return plane[..., rows, :][..., cols]


def split(latents: Any, grid: PatchGrid) -> Any:
    """Cut every patch of `grid` out of an array or tensor (1,c,h,w), row-major: (B,c,V,V). Raises ConfigError if the
    sizes differ."""
    if tuple(latents.shape[-2:]) != grid.size:
        raise ConfigError(f"latents of size {tuple(latents.shape[-2:])} do not fit a grid of size {tuple(grid.size)}")
    numbers = np.arange(grid.patch)
    rows = np.asarray(grid.rows)[:, None, None, None] + numbers[:, None]  # (r,1,V,1)
    cols = np.asarray(grid.cols)[:, None, None] + numbers  # (q,1,V)
    cut = latents[0][:, rows, cols]  # (c,r,q,V,V)
    return cut.reshape(len(cut), grid.count, grid.patch, grid.patch).swapaxes(0, 1)


def merge(
    patches: Float[ndarray, "B c V V"], grid: PatchGrid, window: Float[ndarray, "V V"]
) -> Float[ndarray, "1 c h w"]:
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
    return blend(patches, grid.rows, grid.cols, grid.size, window)


def blend(
    patches: Float[ndarray, "B c V V"],
    rows: Sequence[int],
    cols: Sequence[int],
    size: Size,
    window: Float[ndarray, "V V"],
) -> Float[ndarray, "1 c h w"]:
    """`merge` for patches whose top rows and left columns are given: also some lines of a grid, alone."""
    side = patches.shape[-1]
    total = np.zeros((patches.shape[1], *size), np.float32)
    weights = np.zeros(size, np.float32)
    for number, (top, left) in enumerate((top, left) for top in rows for left in cols):
        here = (..., slice(top, top + side), slice(left, left + side))
        total[here] += patches[number] * window
        weights[here] += window
    return (total / weights)[None]


def raised_cosine_window(patch: int, overlap: int) -> Float[ndarray, "V V"]:
    """Weights in (0, 1], float32: flat in the middle, falling as a squared sine over the `overlap` with each neighbour.

    Two neighbours' ramps sum to one, so that up to half a patch of overlap the blend is a cross-fade; no overlap gives
    ones. Choice: beyond half a patch the ramp stays at half the patch (a Hann window) and `merge` divides by the sum.
    Raises ConfigError unless 0 <= overlap < patch.
    """
    if not 0 <= overlap < patch:
        raise ConfigError(f"overlap {overlap} must lie in [0, {patch - 1}], below the patch side {patch}")
    ramp = min(overlap, patch // 2)
    side = np.ones(patch)
    if ramp:
        rise = np.sin(math.pi / 2 * (np.arange(ramp) + 0.5) / ramp) ** 2
        side[:ramp], side[-ramp:] = rise, rise[::-1]
    return np.outer(side, side).astype(np.float32)


def patches_of(size: Size, patch: int, overlap: int) -> int:
    """Of a picture of this size that is enlarged x4 in one pass."""
    return PatchGrid(padded_size(size.latents(), patch), patch, patch - overlap).count
