"""The convolutions of AlexNet and VGG16, up to the last ReLU that LPIPS and DISTS read."""

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

# Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014: in, out, kernel, stride, padding.
_ALEXNET = ((3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1))
# Simonyan and Zisserman, 2014, configuration D: width and number of the 3x3 convolutions between poolings.
_VGG16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


class AlexNetTrunk(nn.Module):
    """Five convolutions; a tap after each one's ReLU. Sides must be at least 31 pixels."""

    widths = tuple(layer[1] for layer in _ALEXNET)
    smallest = 31

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(*layer) for layer in _ALEXNET)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
        """Normalised pixels -> taps of 64, 192, 384, 256 and 256 channels at strides 4, 8, 16, 16 and 16."""
        taps = []
        for number, convolution in enumerate(self.convolutions):
            if number in (1, 2):
                x = F.max_pool2d(x, kernel_size=3, stride=2)
            x = F.relu(convolution(x))
            taps.append(x)
        return taps


class Vgg16Trunk(nn.Module):
    """Thirteen convolutions in five blocks; a tap after each block. Sides must be at least 16 pixels."""

    widths = tuple(width for width, _ in _VGG16)
    smallest = 16

    def __init__(self) -> None:
        super().__init__()
        layers, before = [], 3
        for width, count in _VGG16:
            for _ in range(count):
                layers.append(nn.Conv2d(before, width, 3, padding=1))
                before = width
        self.convolutions = nn.ModuleList(layers)

    def forward(self, x: Float[Tensor, "n 3 h w"], pool: Callable[[Tensor], Tensor] | None = None) -> list[Tensor]:
        """Normalised pixels -> taps of 64, 128, 256, 512 and 512 channels at strides 1, 2, 4, 8 and 16.

        pool  halves the sides between blocks; the largest of 2x2 by default
        """
        taps, first = [], 0
        for block, (_, count) in enumerate(_VGG16):
            if block:
                x = F.max_pool2d(x, kernel_size=2, stride=2) if pool is None else pool(x)
            for convolution in self.convolutions[first : first + count]:
                x = F.relu(convolution(x))
            first += count
            taps.append(x)
        return taps
