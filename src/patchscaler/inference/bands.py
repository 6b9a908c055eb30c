"""From refined patches to pixels, band by band of rows: blend, decode, colour fix."""

import bisect
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from patchscaler.imaging.colour import COLOUR_LEVELS, WAVELET_REACH, wavelet_colour_fix
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.picture import Picture, is_colourless, without_colour
from patchscaler.imaging.resize import enlarge_rows, resize_bicubic
from patchscaler.imaging.tiles import PatchGrid, blend, raised_cosine_window, spans
from patchscaler.inference.canvas import Canvas, FloatCanvas, LatentCanvas, SampleCanvas
from patchscaler.inference.parts import SCALE, STRIDE, Parts
from patchscaler.inference.shelf import Shelf
from patchscaler.models.latents import decode_reach, decode_tiled, decode_tiles
from patchscaler.report import Progress, ProgressCallback, Report

# Latents of a band: decoded, enlarged and corrected pixels of one take about 0.7 GiB.
BAND_AREA = 3 * 2**16
COLOUR_HALO = -(-WAVELET_REACH // STRIDE)  # latents


class Span(NamedTuple):
    """Rows [top, bottom)."""

    top: int
    bottom: int


class Finisher:
    """Makes the picture's rows of its patches.

    coarse   (top, left, side) -> the restorer's patch (c,V,V) there
    refined  number of a patch -> (c,V,V), or None where the restorer's is to stay
    """

    def __init__(
        self,
        parts: Parts,
        picture: Picture,
        pixels: Tensor,
        grid: PatchGrid,
        size: Size,
        coarse: Callable[[int, int, int], Tensor],
        refined: Callable[[int], Tensor | None],
    ) -> None:
        self.parts, self.picture, self.pixels, self.grid, self.size = parts, picture, pixels, grid, size
        self.coarse, self.refined = coarse, refined
        self.window = raised_cosine_window(grid.patch, parts.overlap)
        self.colourless = is_colourless(picture.pixels)
        self.bands = spans(size.height, math.ceil(size.height * size.width / BAND_AREA))

    @torch.inference_mode()
    def run(self, canvas: Canvas, shelf: Shelf, report: Report, notify: ProgressCallback) -> None:
        """All bands that the shelf's notes don't call finished, onto the canvas."""
        if isinstance(canvas, LatentCanvas):
            canvas.latents = self._blend(0, self.size.height).to(self.parts.device)
            return
        autoencoder, width = self.parts.autoencoder, self.size.width
        needed = [self._widened(*band, COLOUR_HALO) for band in self.bands]
        tiles = [len(decode_tiles(autoencoder, Size(bottom - top, width))) for top, bottom in needed]
        total, done = sum(tiles), 0

        def on_tile() -> None:
            nonlocal done
            done += 1
            notify(Progress("decode", done, total))

        finished = shelf.notes.get("finished", 0)
        for number, (band, (top, bottom)) in enumerate(zip(self.bands, needed, strict=True)):
            if number < finished:
                done += tiles[number]
                continue
            with report.stage("decode"):
                first, last = self._widened(top, bottom, decode_reach(autoencoder))
                latents = self._blend(first, last).to(self.parts.device)
                decoded = decode_tiled(autoencoder, latents, rows=(top - first, bottom - first), on_tile=on_tile)
            with report.stage("colour"):
                self._colour(canvas, decoded, Span(STRIDE * band[0], STRIDE * band[1]), STRIDE * top)
            shelf.note(finished=number + 1)
            notify(Progress("colour", number + 1, len(self.bands)))

    @torch.inference_mode()
    def small(self, factor: int) -> Float[Tensor, "1 3 height width"]:
        """The whole picture, smaller by `factor` (2, 4 or 8), of the low frequencies of its latents: no network runs.
        DctAutoencoder only."""
        latents = self._blend(0, self.size.height).to(self.parts.device)
        decoded = self.parts.autoencoder.inverse_dct(latents, STRIDE // factor)
        size = Size(*(-(-SCALE * side // factor) for side in self.pixels.shape[-2:]))
        reference = resize_bicubic(self.pixels, size)
        levels = COLOUR_LEVELS - int(math.log2(factor))
        return wavelet_colour_fix(decoded[..., : size.height, : size.width], reference, levels).clamp_(0, 1)

    def _widened(self, top: int, bottom: int, halo: int) -> tuple[int, int]:
        return max(top - halo, 0), min(bottom + halo, self.size.height)

    def _blend(self, top: int, bottom: int) -> Tensor:
        """Rows [top, bottom) of the refined latents (1,c,h,w), of all patches that reach into them."""
        grid = self.grid
        lines = range(bisect.bisect_right(grid.rows, top - grid.patch), bisect.bisect_left(grid.rows, bottom))
        patches = []
        for line in lines:
            for number, left in enumerate(grid.cols, start=line * len(grid.cols)):
                patch = self.refined(number)
                patches.append(self.coarse(grid.rows[line], left, grid.patch) if patch is None else patch)
        start = grid.rows[lines[0]]
        rows = [grid.rows[line] - start for line in lines]
        latents = blend(
            torch.stack(patches), rows, grid.cols, Size(rows[-1] + grid.patch, grid.size.width), self.window
        )
        return latents[..., top - start : bottom - start, : self.size.width]

    def _colour(self, canvas: FloatCanvas | SampleCanvas, decoded: Tensor, rows: Span, start: int) -> None:
        """Rows of the result from decoded ones, which begin at row `start` and reach COLOUR_HALO further."""
        height, width = (SCALE * side for side in self.pixels.shape[-2:])
        decoded = decoded[..., : height - start, :width]
        reference = enlarge_rows(self.pixels, SCALE, start, start + decoded.shape[-2])
        fixed = wavelet_colour_fix(decoded, reference).clamp_(0, 1)
        if self.colourless:  # by content, whatever its channels: a black-and-white picture gets no colours
            fixed = without_colour(fixed)
        bottom = min(rows.bottom, height)
        alpha = self.picture.alpha
        canvas.write(
            rows.top,
            fixed[..., rows.top - start : bottom - start, :],
            None if alpha is None else enlarge_rows(alpha, SCALE, rows.top, bottom).clamp_(0, 1),
        )
