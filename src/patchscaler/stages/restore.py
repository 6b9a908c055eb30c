"""What the GRM says of a whole picture, put together of tiles."""

import numpy as np

from patchscaler.engines.protocol import ModelInfo, Restored
from patchscaler.imaging.geometry import CELL, Size
from patchscaler.imaging.shapes import Array
from patchscaler.imaging.tiles import Tile, padded_size, plan_tiles, spans
from patchscaler.pgs.groups import confidence_from
from patchscaler.stages.task import Task

# Choice: the second restorer sees further than any halo. So its tiles have their places in the picture, whatever the
# memory, and a halo in latents beyond which next to nothing changes them (docs/speed.md).
SECOND_TILE, SECOND_HALO = 128, 12


class CoarseLatents:
    """Coarse latents, log error and expected gain of a picture, (height,width,channels) each, in its spill.

    A picture smaller than a patch is continued to one by its last row and column.
    """

    def __init__(self, task: Task, model: ModelInfo) -> None:
        self.task, self.model = task, model
        self.size = padded_size(task.size, model.patch)

    def pixels_of(self, tile: Tile) -> Array:
        """The picture (1,3,2h,2w) under a tile of latents."""
        pixels: Array = tile.times(CELL).of(self.task.pixels)
        return pixels

    def write(self, tile: Tile, restored: Restored) -> None:
        for name, values in zip(("latents", "error", "gain"), restored, strict=True):
            if values is not None:
                array = self._array(name, values.shape[1])
                array[tile.top : tile.bottom, tile.left : tile.right] = values[0].transpose(1, 2, 0)

    def pad(self) -> None:
        """Repeats the last row and column of the picture up to the plane's own."""
        (height, width), channels = self.task.size, self.model.channels
        for array in (self._array("latents", channels), self._array("error", 1)):
            array[:, width:] = array[:, width - 1 : width]
            array[height:] = array[height - 1 : height]

    @property
    def gain(self) -> Array:
        """(1,1,h,w) of the picture itself."""
        return self._plane("gain")[..., : self.task.size.height, : self.task.size.width]

    @property
    def latents(self) -> Array:
        """(1,c,h,w) of the picture itself."""
        array = self._array("latents", self.model.channels)[: self.task.size.height, : self.task.size.width]
        return np.array(array).transpose(2, 0, 1)[None]

    @property
    def error(self) -> Array:
        """(1,1,H,W), continued."""
        return self._plane("error")

    @property
    def confidence(self) -> Array:
        """(1,1,h,w) in (0,1] of the picture itself."""
        return confidence_from(self.error, self.model.eta)[..., : self.task.size.height, : self.task.size.width]

    def patch(self, top: int, left: int) -> Array:
        """Latents (c,V,V) from this corner on."""
        return self._patch("latents", self.model.channels, top, left)

    def error_patch(self, top: int, left: int) -> Array:
        """Log error (1,V,V)."""
        return self._patch("error", 1, top, left)

    def _patch(self, name: str, channels: int, top: int, left: int) -> Array:
        side = self.model.patch
        return np.ascontiguousarray(
            self._array(name, channels)[top : top + side, left : left + side].transpose(2, 0, 1)
        )

    def _plane(self, name: str) -> Array:
        return np.array(self._array(name, 1)).transpose(2, 0, 1)[None]

    def _array(self, name: str, channels: int) -> Array:
        return self.task.spill.array(name, (*self.size, channels), np.float32)


def first_tiles(size: Size, model: ModelInfo) -> list[Tile]:
    """Of the first restorer, each with a halo of its reach, so that the tiles are those of the whole picture.

    A restorer without a reach (attention over windows) sees the whole picture at once.
    """
    if model.restore_reach is None:
        return [Tile(0, size.height, 0, size.width)]
    return plan_tiles(size, model.restore_reach, model.restore_area)


def second_tiles(size: Size) -> list[Tile]:
    """Of about SECOND_TILE latents a side, row-major."""
    rows, cols = (spans(side, -(-side // SECOND_TILE)) for side in size)
    return [Tile(*row, *col) for row in rows for col in cols]


def inner(tile: Tile, wide: Tile, restored: Restored) -> Restored:
    """What belongs to a tile, of an answer for it with its halo."""
    own = tile.within(wide)
    gain = None if restored.gain is None else own.of(restored.gain)
    return Restored(own.of(restored.latents), own.of(restored.log_error), gain)


def mixed(first: Restored, second: Restored, share: float) -> Restored:
    """`share` of the second answer, the rest of the first."""
    weight = np.float32(share)
    latents, error = (one + weight * (two - one) for one, two in zip(first[:2], second[:2], strict=True))
    return Restored(latents, error)
