"""How visible the borders of patches are: gradients there against gradients of the same kind inside patches."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from patchscaler.imaging.colour import rgb_to_y
from patchscaler.imaging.geometry import Size


def patch_borders(boxes: Sequence[tuple[int, int, int, int]], size: Size) -> tuple[list[int], list[int]]:
    """Rows and columns where a patch begins or ends within a picture of `size`, from (top, left, height, width)."""
    rows = {edge for top, _, height, _ in boxes for edge in (top, top + height)} - {0, size.height}
    cols = {edge for _, left, _, width in boxes for edge in (left, left + width)} - {0, size.width}
    return sorted(rows), sorted(cols)


class Seams(NamedTuple):
    """Mean luma gradients, in [0, 1] per line: across patch borders, and across the other lines of the grid."""

    at_borders: float
    elsewhere: float

    @property
    def ratio(self) -> float:
        """1 where borders can't be told from the inside of patches, more where they show."""
        return self.at_borders / max(self.elsewhere, 1e-12)


def measure_seams(
    pixels: Float[Tensor, "1 3 h w"], rows: Sequence[int], cols: Sequence[int], scale: int = 1, grid: int = 8
) -> Seams:
    """How steep the picture is at the patch borders, and how steep elsewhere.

    rows, cols  of the borders (`patch_borders`): the border lies between pixel index - 1 and pixel index
    scale       1: steps from pixel to pixel, as seen close by. 8: between the means of neighbouring 8 x 8 cells: steps
                in brightness that are seen from afar
    grid        only its lines are compared with each other: 8, since autoencoders leave traces of the latent grid; 16
                where all patches begin at even latents, since Patch-DiT leaves traces of its tokens of 2 x 2 latents

    Raises ValueError where there are no borders or nothing else to compare with, and for a scale that doesn't divide
    the grid.
    """
    if scale < 1 or grid % scale:
        raise ValueError(f"scale {scale} must divide the grid, {grid}")
    luma = F.avg_pool2d(rgb_to_y(pixels.float()), scale)[0, 0]
    at_borders: list[Tensor] = []
    elsewhere: list[Tensor] = []
    for plane, borders in ((luma, set(rows)), (luma.T, set(cols))):
        steps = (plane[1:] - plane[:-1]).abs().mean(dim=1)  # steps[i]: between i and i + 1
        for line in range(grid, plane.shape[0] * scale, grid):
            (at_borders if line in borders else elsewhere).append(steps[line // scale - 1])
    if not at_borders or not elsewhere:
        raise ValueError(f"{len(at_borders)} borders and {len(elsewhere)} other lines: nothing to compare")
    return Seams(float(torch.stack(at_borders).mean()), float(torch.stack(elsewhere).mean()))
