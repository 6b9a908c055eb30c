"""LPIPS, the learned perceptual distance: a metric, and with "vgg" a training loss.

Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", 2018 (arXiv 1801.03924),
its version 0.1: ImageNet trunks as they are, with one learned weight per channel of five taps.
"""

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from patchscaler.metrics.convolutions import Network, load_convolutions
from patchscaler.metrics.trunks import AlexNetTrunk, Vgg16Trunk

HEADS = Path(__file__).parent / "parameters" / "lpips.safetensors"
HEADS_SOURCE = "lpips 0.1"
_NETWORKS: dict[str, Network] = {"alex": "alexnet", "vgg": "vgg16"}
# Mean and deviation of ImageNet's colours for pixels in [-1, 1], rounded as the authors did.
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_TINY = 1e-10


class Lpips(nn.Module):
    """The distance of two pictures as people see it: 0 for equal ones, about 0.5 for hardly similar ones.

    source    names of the weights, for reports
    sha256    of the convolutions
    smallest  least side of a picture in pixels

    Frozen, but differentiable in its inputs: as a loss, `network.distance(network(x), wanted)`, with `wanted` computed
    without gradients, costs one trunk forward and backward. `features` are the taps before they are scaled.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, trunk: AlexNetTrunk | Vgg16Trunk, heads: list[Tensor], source: str, sha256: str) -> None:
        super().__init__()
        self.trunk, self.source, self.sha256 = trunk, source, sha256
        self.smallest = trunk.smallest
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1))
        for number, head in enumerate(heads):
            self.register_buffer(f"head_{number}", head.view(1, -1, 1, 1))
        self.eval().requires_grad_(False)

    def forward(self, pixels: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
        """RGB in [0,1] -> the five taps, each place scaled to a vector of length 1."""
        return self.unit(self.features(pixels))

    def features(self, pixels: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
        """RGB in [0,1] -> the five taps as the trunk gives them."""
        return self.trunk((2 * pixels - 1 - self.shift) / self.scale)

    def unit(self, taps: list[Tensor]) -> list[Tensor]:
        """Each place scaled to a vector of length 1."""
        # vector_norm's gradient at 0 is 0, where that of a written-out root is not a number.
        return [tap / (torch.linalg.vector_norm(tap, dim=1, keepdim=True) + _TINY) for tap in taps]

    def distance(self, a: list[Tensor], b: list[Tensor]) -> Float[Tensor, " n"]:
        """LPIPS of pictures given by their taps."""
        return sum(plane.mean((1, 2, 3)) for plane in self._planes(a, b))  # type: ignore[return-value]

    def distance_map(self, a: list[Tensor], b: list[Tensor], height: int, width: int) -> Float[Tensor, "n 1 h w"]:
        """Where the distance lies: each tap's distances, enlarged bilinearly to height x width, summed.

        Its mean is the LPIPS but for what the enlarging changes at the borders.
        """
        size = (height, width)
        enlarged = (F.interpolate(p, size, mode="bilinear", align_corners=False) for p in self._planes(a, b))
        return sum(enlarged)  # type: ignore[return-value]

    def _planes(self, a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
        return [
            ((x - y).square() * getattr(self, f"head_{number}")).sum(dim=1, keepdim=True)
            for number, (x, y) in enumerate(zip(a, b, strict=True))
        ]


def load_lpips(net: Literal["alex", "vgg"], folder: str | Path | None = None) -> Lpips:
    """LPIPS 0.1 with its published weights, on the CPU. folder, errors: see `load_convolutions`."""
    convolutions = load_convolutions(_NETWORKS[net], folder)
    heads = load_file(HEADS)
    ordered = [heads[f"{net}.{number}"] for number in range(len(convolutions.trunk.widths))]
    return Lpips(convolutions.trunk, ordered, f"{HEADS_SOURCE}, {convolutions.source}", convolutions.sha256)
