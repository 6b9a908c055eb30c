"""What the validations of training runs share."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def sheet(rows: list[list[Tensor]]) -> Image.Image:
    """Rows of equally sized pictures (1,3,H,W) in [0,1] side by side, at 100 %; short rows are filled up with black."""
    strips = [torch.cat([x.float().clamp(0, 1).cpu() for x in row], dim=3) for row in rows]
    width = max(strip.shape[3] for strip in strips)
    strips = [F.pad(strip, (0, width - strip.shape[3])) for strip in strips]
    pixels = torch.cat(strips, dim=2)[0].permute(1, 2, 0).mul(255).round()
    return Image.fromarray(pixels.numpy().astype(np.uint8))
