"""The restorer alone, on the pixels of any picture: a coarse picture x4 and how sure it is of every part of it.

What PGS needs to know of a picture before any diffusion model works on it. Another model encodes the coarse picture
with its own autoencoder and pools the confidence to its own grid.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from patchscaler.imaging.files import Picture, picture_from
from patchscaler.imaging.geometry import Size
from patchscaler.inference.canvas import FloatCanvas
from patchscaler.inference.crew import Crew
from patchscaler.inference.parts import SCALE, Parts, default_dtype, load_parts
from patchscaler.inference.settings import Settings
from patchscaler.inference.way import enlarge
from patchscaler.pgs import pool_confidence
from patchscaler.report import ProgressCallback, Report
from patchscaler.storage import model_folder


class Coarse(NamedTuple):
    """A picture x4 by the restorer alone.

    low         (1,3,H,W) in [0,1], the picture itself
    pixels      (1,3,4H,4W) in [0,1]
    confidence  (1,1,ceil(H/2),ceil(W/2)) in (0,1], on the grid of 8 coarse pixels
    """

    low: Tensor
    pixels: Tensor
    confidence: Tensor

    def confidence_at(self, size: Size) -> Tensor:
        """(1,1,*size): the confidence on another grid of the same picture, such as another autoencoder's latents."""
        return pool_confidence(self.confidence, size)


def load_restorer(model: str | None = None, device: str = "cpu") -> Parts:
    """What `restore` needs: the bundled model (None), or a folder of one. Raises WeightsError."""
    return load_parts(Path(model_folder(model)), default_dtype(device), device)


def restore(
    image: Any,
    parts: Parts | None = None,
    *,
    report: Report | None = None,
    notify: ProgressCallback = lambda progress: None,
) -> Coarse:
    """Coarse picture and confidence of a picture of any size from 1x1 on.

    image   path, PIL image, numpy array, tensor (3,H,W) in [0,1] or Picture; transparency is left out
    parts   from `load_restorer`; None: the bundled model, loaded for this call
    report  is filled with time and memory of the stages
    notify  called with a Progress after every tile

    No step of diffusion is taken: restorer, decoder and colour fix. Raises ImageReadError, WeightsError.
    """
    parts = parts or load_restorer()
    picture = replace(image if isinstance(image, Picture) else picture_from(image), alpha=None)
    settings = Settings(steps=(0, 0, 0))
    report = report or Report(str(parts.device), str(parts.dtype).removeprefix("torch."), settings.seed)
    canvas = FloatCanvas(Size(*(SCALE * side for side in picture.size)), parts.device, with_alpha=False)
    with Crew(parts) as crew, torch.no_grad():
        way = enlarge(picture, crew, settings, canvas, report, notify=notify)
    return Coarse(picture.pixels.to(canvas.pixels), canvas.pixels, way.confidence.to(canvas.pixels.device))
