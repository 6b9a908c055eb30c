"""DISTS: a distance of pictures that forgives a texture resampled, as long as it stays the same texture.

Source: Ding et al., "Image Quality Assessment: Unifying Structure and Texture Similarity", 2020 (arXiv 2004.07728):
means and correlations of VGG16's taps and of the pixels, weighted by learned alpha and beta.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from patchscaler.metrics.convolutions import load_convolutions
from patchscaler.metrics.trunks import Vgg16Trunk

PARAMETERS = Path(__file__).parent / "parameters" / "dists.safetensors"
PARAMETERS_SOURCE = "DISTS-pytorch 0.1"
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours
_C1 = _C2 = 1e-6  # Eq. 3 and 4: keep flat features stable


class Dists(nn.Module):
    """The distance of two pictures, 0 for equal ones. source, sha256: see Lpips; smallest: least side in pixels."""

    mean: Tensor
    deviation: Tensor
    window: Tensor
    alpha: Tensor
    beta: Tensor

    def __init__(self, trunk: Vgg16Trunk, alpha: Tensor, beta: Tensor, source: str, sha256: str) -> None:
        super().__init__()
        self.trunk, self.source, self.sha256, self.smallest = trunk, source, sha256, trunk.smallest
        self.widths = (3, *trunk.widths)
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(_DEVIATION).view(1, 3, 1, 1))
        hann = torch.hann_window(5, periodic=False)[1:-1]
        self.register_buffer("window", torch.outer(hann, hann)[None, None] / hann.sum() ** 2)
        total = alpha.sum() + beta.sum()
        self.register_buffer("alpha", alpha / total)
        self.register_buffer("beta", beta / total)
        self.eval().requires_grad_(False)

    def forward(self, pixels: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
        """RGB in [0,1] -> the pixels and the five taps of the trunk."""
        return [pixels, *self.trunk((pixels - self.mean) / self.deviation, self._l2_pool)]

    def distance(self, a: list[Tensor], b: list[Tensor]) -> Float[Tensor, " n"]:
        """DISTS of pictures given by their taps, Eq. 5."""
        similarity = a[0].new_zeros(len(a[0]))
        weights = zip(self.alpha.split(self.widths), self.beta.split(self.widths), strict=True)
        for x, y, (alpha, beta) in zip(a, b, weights, strict=True):
            mean_x, mean_y = x.mean((2, 3)), y.mean((2, 3))
            variance_x = x.var((2, 3), correction=0)
            variance_y = y.var((2, 3), correction=0)
            covariance = (x * y).mean((2, 3)) - mean_x * mean_y
            texture = (2 * mean_x * mean_y + _C1) / (mean_x.square() + mean_y.square() + _C1)
            structure = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
            similarity = similarity + (alpha * texture + beta * structure).sum(dim=1)
        return 1 - similarity

    def _l2_pool(self, x: Tensor) -> Tensor:
        """Blurred energy at every second place: pooling that doesn't alias."""
        window = self.window.expand(x.shape[1], 1, 3, 3)
        return (F.conv2d(x.square(), window, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()


def load_dists(folder: str | Path | None = None) -> Dists:
    """DISTS with its published weights, on the CPU. folder, errors: see `load_convolutions`."""
    convolutions = load_convolutions("vgg16", folder)
    assert isinstance(convolutions.trunk, Vgg16Trunk)
    weights = load_file(PARAMETERS)
    source = f"{PARAMETERS_SOURCE}, {convolutions.source}"
    return Dists(convolutions.trunk, weights["alpha"], weights["beta"], source, convolutions.sha256)
