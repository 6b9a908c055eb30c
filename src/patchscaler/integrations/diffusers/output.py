"""What a call of the pipeline returns."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.utils import BaseOutput
from torch import Tensor

from patchscaler.report import Report
from patchscaler.stages.passes import Result


@dataclass
class PatchScalerOutput(BaseOutput):
    """Of one picture.

    images       the enlarged picture: list of PIL, (1,H,W,3) numpy or (1,3,H,W) tensor in [0,1]; or latents (1,c,h,w)
    alpha        (1,1,H,W) in [0,1], or None; None beside latents
    confidence   (1,1,h,w) in (0,1], on the latent grid (8 output pixels)
    groups       (rows,cols) int64, 0 simple .. 2 hard
    patch_boxes  (top,left,height,width) in output pixels, in the order of groups.flatten()
    report       see Report
    """

    images: Any
    alpha: Tensor | None
    confidence: Tensor
    groups: Tensor
    patch_boxes: list[tuple[int, int, int, int]]
    report: Report


@dataclass
class PatchScalerBatch(BaseOutput):
    """Of several pictures.

    images   of all: list of PIL; else (n,H,W,3) numpy, (n,3,H,W) or (n,c,h,w) tensor, or a list of these with n = 1
             where the pictures have different sizes
    results  PatchScalerOutput of each picture
    """

    images: Any
    results: list[PatchScalerOutput]


def batch_of(results: list[PatchScalerOutput]) -> PatchScalerBatch:
    """The results together; `images` of each become a part of the batch's, so that they exist once."""
    parts = [result.images for result in results]
    if isinstance(parts[0], list):
        return PatchScalerBatch([image for part in parts for image in part], results)
    if len({part.shape for part in parts}) > 1:
        return PatchScalerBatch(parts, results)
    images: Any = np.concatenate(parts) if isinstance(parts[0], np.ndarray) else torch.cat(parts)
    for number, result in enumerate(results):
        result.images = images[number : number + 1]
    return PatchScalerBatch(images, results)


def output_of(result: Result, output_type: str, device: torch.device) -> PatchScalerOutput:
    """Of a Result; for "latent", its pixels are latents."""
    images: Any = [result.image] if output_type == "pil" else None
    if output_type == "np":
        images = np.ascontiguousarray(result.pixels.transpose(0, 2, 3, 1))
    elif output_type != "pil":
        images = torch.from_numpy(result.pixels).to(device)
    return PatchScalerOutput(
        images=images,
        alpha=None if result.alpha is None else torch.from_numpy(result.alpha),
        confidence=torch.from_numpy(result.confidence),
        groups=torch.from_numpy(result.groups),
        patch_boxes=result.patch_boxes,
        report=result.report,
    )
