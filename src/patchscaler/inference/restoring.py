"""The first stage: both restorers of the GRM, tile by tile, the second one only if the gate asks it."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from patchscaler.imaging.geometry import Size
from patchscaler.imaging.tiles import Tile, plan_tiles, spans
from patchscaler.inference.parts import Parts
from patchscaler.inference.settings import Settings
from patchscaler.inference.shelf import Shelf
from patchscaler.models.restorer import Restoration
from patchscaler.report import Progress, ProgressCallback

# Latents, halo included, restored at once: about 0.5 GiB with the `tiny` restorer.
RESTORE_AREA = 130_000
# Choice: the second restorer sees further than any halo. So its tiles have their places in the picture, whatever the
# memory, and a halo in latents beyond which next to nothing changes them (docs/speed.md).
SECOND_TILE, SECOND_HALO = 128, 12


class Plane:
    """The GRM's answer for the whole picture, on the shelf: (height,width,channels) each.

    A picture smaller than a patch is continued to one by its last row and column.
    """

    def __init__(self, shelf: Shelf, size: Size, channels: int) -> None:
        self.shelf, self.size, self.channels = shelf, size, channels

    def write(self, tile: Tile, restored: Restoration, gain: Tensor | None = None) -> None:
        """What belongs to a tile: latents (1,c,h,w), log errors and expected gains (1,1,h,w)."""
        for name, values in (("coarse", restored.latents), ("error", restored.log_error), ("gain", gain)):
            if values is not None:
                array = self._array(name, values.shape[1])
                part = array[tile.top : tile.bottom, tile.left : tile.right]
                part[:] = values[0].permute(1, 2, 0).float().cpu().numpy()

    def continue_from(self, size: Size) -> None:
        """Repeats the last row and column of a picture of `size` up to the plane's own."""
        for name, channels in (("coarse", self.channels), ("error", 1)):
            array = self._array(name, channels)
            array[:, size.width :] = array[:, size.width - 1 : size.width]
            array[size.height :] = array[size.height - 1 : size.height]

    def gain(self, size: Size) -> Float[Tensor, "1 1 H W"]:
        """Of the picture itself."""
        array = self._array("gain", 1)[: size.height, : size.width]
        return torch.from_numpy(np.array(array)).permute(2, 0, 1)[None]

    def error(self) -> Float[Tensor, "1 1 H W"]:
        return torch.from_numpy(np.array(self._array("error", 1))).permute(2, 0, 1)[None]

    def coarse_patch(self, top: int, left: int, side: int) -> Float[Tensor, "c V V"]:
        return self._patch("coarse", self.channels, top, left, side)

    def error_patch(self, top: int, left: int, side: int) -> Float[Tensor, "1 V V"]:
        return self._patch("error", 1, top, left, side)

    def _patch(self, name: str, channels: int, top: int, left: int, side: int) -> Tensor:
        part = self._array(name, channels)[top : top + side, left : left + side]
        return torch.from_numpy(np.ascontiguousarray(part.transpose(2, 0, 1)))

    def _array(self, name: str, channels: int) -> np.ndarray:
        return self.shelf.array(name, (*self.size, channels), np.float32)


@torch.inference_mode()
def restore(parts: Parts, pixels: Tensor, size: Size, plane: Plane, notify: ProgressCallback) -> None:
    """By the first restorer, each tile with a halo of its reach, so that the tiles are those of the whole picture.

    A restorer without a reach (attention over windows) sees the whole picture at once.
    """
    whole = getattr(parts.restorer, "reach", None) is None
    tiles = [Tile(0, size.height, 0, size.width)] if whole else plan_tiles(size, parts.restorer.reach, RESTORE_AREA)
    done = plane.shelf.notes.get("restored", 0)
    for number, tile in enumerate(tiles):
        if number >= done:
            plane.write(tile, *_first(parts, pixels, size, tile))
            plane.shelf.note(restored=number + 1)
        notify(Progress("restore", number + 1, len(tiles)))
    plane.continue_from(size)


@torch.inference_mode()
def ask_second(
    parts: Parts, pixels: Tensor, size: Size, plane: Plane, settings: Settings, notify: ProgressCallback
) -> dict[str, float]:
    """Asks the second restorer if it is expected to help, and mixes its answer in, by the `share` for the report."""
    assert parts.fusion is not None
    share, lean = parts.fusion.share(plane.gain(size), settings.denoise)
    tiles = second_tiles(size) if share > 0 else []
    done = plane.shelf.notes.get("asked", 0)
    for number, tile in enumerate(tiles):
        if number >= done:
            wide = tile.widened(SECOND_HALO, size)
            fused = parts.grm.fused(wide.times(2).of(pixels), lean)
            # Not read from the plane: a run killed after writing it would mix the answer in twice.
            first, _ = _first(parts, pixels, size, tile)
            pairs = zip(first, fused, strict=True)
            plane.write(tile, Restoration(*(torch.lerp(one, tile.within(wide).of(two), share) for one, two in pairs)))
            plane.shelf.note(asked=number + 1)
        notify(Progress("second", number + 1, len(tiles)))
    plane.continue_from(size)
    return {"share": share}


def _first(parts: Parts, pixels: Tensor, size: Size, tile: Tile) -> tuple[Restoration, Tensor | None]:
    """The first restorer's answer for a tile, as of the whole picture, and the gain to be expected of the second."""
    wide = tile.widened(getattr(parts.restorer, "reach", 0), size)
    restored, gain = parts.grm.first(wide.times(2).of(pixels))
    inner = tile.within(wide)
    return Restoration(*(inner.of(part) for part in restored)), None if gain is None else inner.of(gain)


def second_tiles(size: Size) -> list[Tile]:
    """Of about SECOND_TILE latents a side, row-major."""
    rows, cols = (spans(side, -(-side // SECOND_TILE)) for side in size)
    return [Tile(*row, *col) for row in rows for col in cols]
