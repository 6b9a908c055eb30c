"""From refined patches to pixels, band by band of rows: blend, decode, colour fix."""

import bisect
import math
from collections.abc import Callable, Sequence

import numpy as np

from patchscaler.engines.protocol import Engine, ModelInfo
from patchscaler.imaging.colour import COLOUR_LEVELS, WAVELET_REACH, wavelet_colour_fix
from patchscaler.imaging.geometry import SCALE, STRIDE, Size
from patchscaler.imaging.picture import Picture, is_colourless, without_colour
from patchscaler.imaging.resize import enlarge_rows, resize_bicubic
from patchscaler.imaging.shapes import Array
from patchscaler.imaging.tiles import PatchGrid, Tile, blend, plan_tiles, raised_cosine_window, spans
from patchscaler.report import Progress, ProgressCallback, Report
from patchscaler.stages.canvas import FloatCanvas, SampleCanvas
from patchscaler.stages.spill import Spill

# Latents of a band: decoded, enlarged and corrected pixels of one take about 0.7 GiB.
BAND_AREA = 3 * 2**16
COLOUR_HALO = -(-WAVELET_REACH // STRIDE)  # latents


class Renderer:
    """Makes the picture's rows of its patches.

    latents_of  index of a patch, its first row and column -> latents (c,V,V)
    """

    def __init__(
        self, engine: Engine, picture: Picture, grid: PatchGrid, latents_of: Callable[[int, int, int], Array]
    ) -> None:
        self.engine, self.picture, self.grid, self.latents_of = engine, picture, grid, latents_of
        self.size = picture.size.latents()
        self.window = raised_cosine_window(grid.patch, engine.model.overlap)
        self.colourless = is_colourless(picture.pixels)
        self.bands = spans(self.size.height, math.ceil(self.size.height * self.size.width / BAND_AREA))

    def run(self, canvas: FloatCanvas | SampleCanvas, spill: Spill, report: Report, notify: ProgressCallback) -> None:
        """All bands that the spill's notes don't call finished, onto the canvas."""
        model, width = self.engine.model, self.size.width
        needed = [self._widened(*band, COLOUR_HALO) for band in self.bands]
        tiles = [decode_tiles(model, Size(bottom - top, width)) for top, bottom in needed]
        total, done = sum(map(len, tiles)), 0

        def on_tile() -> None:
            nonlocal done
            done += 1
            notify(Progress("decode", done, total))

        finished = spill.notes.get("finished", 0)
        for number, ((first, last), (top, bottom)) in enumerate(zip(self.bands, needed, strict=True)):
            if number < finished:
                done += len(tiles[number])
                continue
            with report.stage("decode"):
                begin, end = self._widened(top, bottom, model.decode_reach)
                rows = (top - begin, bottom - begin)
                latents = self.blend(begin, end)
                decoded = decode_tiled(self.engine.decode, latents, model.decode_reach, tiles[number], rows, on_tile)
            with report.stage("colour"):
                self._colour(canvas, decoded, STRIDE * first, STRIDE * last, STRIDE * top)
            spill.note(finished=number + 1)
            notify(Progress("colour", number + 1, len(self.bands)))

    def small(self, factor: int) -> Array:
        """The whole picture (1,3,h,w), smaller by `factor` (2, 4 or 8), of the low frequencies of its latents: no
        network runs. For models whose latents are a DCT."""
        assert self.engine.model.dct is not None
        decoded = self.engine.model.dct.inverse(self.blend(0, self.size.height), STRIDE // factor)
        size = Size(*(-(-SCALE * side // factor) for side in self.picture.size))
        reference = resize_bicubic(self.picture.pixels, size)
        levels = COLOUR_LEVELS - int(math.log2(factor))
        return wavelet_colour_fix(decoded[..., : size.height, : size.width], reference, levels).clip(0, 1)

    def _widened(self, top: int, bottom: int, halo: int) -> tuple[int, int]:
        return max(top - halo, 0), min(bottom + halo, self.size.height)

    def blend(self, top: int, bottom: int) -> Array:
        """Rows [top, bottom) of the latents (1,c,h,w), of all patches that reach into them."""
        grid = self.grid
        lines = range(bisect.bisect_right(grid.rows, top - grid.patch), bisect.bisect_left(grid.rows, bottom))
        patches = [
            self.latents_of(index, grid.rows[line], left)
            for line in lines
            for index, left in enumerate(grid.cols, start=line * len(grid.cols))
        ]
        start = grid.rows[lines[0]]
        rows = [grid.rows[line] - start for line in lines]
        size = Size(rows[-1] + grid.patch, grid.size.width)
        latents = blend(np.stack(patches), rows, grid.cols, size, self.window)
        return latents[..., top - start : bottom - start, : self.size.width]

    def _colour(self, canvas: FloatCanvas | SampleCanvas, decoded: Array, top: int, bottom: int, start: int) -> None:
        """Rows [top, bottom) of the result from decoded ones, which begin at row `start` and reach COLOUR_HALO
        further."""
        height, width = self.picture.size.times(SCALE)
        decoded = decoded[..., : height - start, :width]
        reference = enlarge_rows(self.picture.pixels, SCALE, start, start + decoded.shape[-2])
        fixed = wavelet_colour_fix(decoded, reference)[..., top - start : min(bottom, height) - start, :].clip(0, 1)
        # By content, whatever its channels: a black-and-white picture gets no colours.
        canvas.write(top, without_colour(fixed) if self.colourless else fixed)


def decode_tiles(model: ModelInfo, size: Size) -> list[Tile]:
    """The tiles in which so many latents are decoded: memory is bounded by `decode_area`."""
    return plan_tiles(size, model.decode_reach, model.decode_area)


def decode_tiled(
    decode: Callable[[Array], Array],
    latents: Array,
    reach: int,
    tiles: Sequence[Tile],
    rows: tuple[int, int] | None = None,
    on_tile: Callable[[], None] = lambda: None,
) -> Array:
    """Latents (n,c,h,w) decoded tile by tile, each with a halo of `reach`: (n,3,8 rows,8w).

    tiles    cover `rows`, counted from its top
    rows     [top, bottom) of the latents to be decoded; those above and below only serve as halo. Default: all
    on_tile  called after each tile

    Raises ValueError for empty latents.
    """
    n, _, height, width = latents.shape
    if not (height and width):
        raise ValueError(f"latents of size {(height, width)} are empty")
    top, bottom = rows or (0, height)
    pixels = np.empty((n, 3, STRIDE * (bottom - top), STRIDE * width), np.float32)
    for tile in tiles:
        inner = tile._replace(top=tile.top + top, bottom=tile.bottom + top)
        wide = inner.widened(reach, Size(height, width))
        decoded = decode(wide.of(latents))
        tile.times(STRIDE).of(pixels)[:] = inner.within(wide).times(STRIDE).of(decoded)
        on_tile()
    return pixels
