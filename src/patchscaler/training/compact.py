"""Real-ESRGAN's compact networks (SRVGGNetCompact x4) as a starting point of the tiny GRM.

Such a network is a row of 3x3 convolutions with PReLU at LR resolution, one convolution to 48 channels, PixelShuffle(4)
and the nearest-neighbour enlarged input added: what follows the row is linear, and so is the DCT encoder. Both together
are one linear map onto the latent grid, which `ConvRestorer` holds exactly. So the restorer begins with the published
network's picture, in our latents, and only ln e (Eq. 1) begins untrained.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from patchscaler.errors import WeightsError
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.models.restorer import ConvRestorer, cell_kernel, enlarged_skip
from patchscaler.training.checkpoints import NcnnFile, read_checkpoint

_SCALE = 4


def read_compact(path: str | Path) -> list[Tensor]:
    """Weights of a compact network in the order of its layers: weight, bias, slopes, ..., weight, bias.

    path: the authors' checkpoint (.pth), or ncnn's .bin of it. WeightsError when it is something else.
    """
    path = Path(path)
    if path.suffix == ".bin":
        return _read_ncnn(NcnnFile(path, "a compact network"))
    state = read_checkpoint(path)
    if not all(key.startswith("body.") for key in state):
        raise WeightsError(f"{path}: not a compact network (SRVGGNetCompact)")
    return list(state.values())


def _read_ncnn(file: NcnnFile, width: int = 64, out: int = 3 * _SCALE**2) -> list[Tensor]:
    tensors = [*file.convolution(width, 3), file.values(width)]
    # Each further layer holds its slopes too; what remains at the end is the convolution to the pixels.
    while file.left > 4 + out * width * 9 * 4 + out * 4:
        tensors += [*file.convolution(width, width), file.values(width)]
    tensors += file.convolution(out, width)
    file.close()
    return tensors


@torch.no_grad()
def restorer_from_compact(tensors: list[Tensor], autoencoder: DctAutoencoder) -> ConvRestorer:
    """A ConvRestorer of plain blocks whose latents are `autoencoder.encode` of the compact network's picture.

    They differ only where the compact network's zero padding is seen: ours pads with middle grey instead of black.
    """
    layers = [(weight, bias) for weight, bias in zip(tensors[::3], tensors[1::3], strict=True)]
    slopes, width = tensors[2::3], tensors[0].shape[0]
    if layers[-1][0].shape != (3 * _SCALE**2, width, 3, 3) or len(slopes) != len(layers) - 1:
        raise WeightsError("the compact network must enlarge RGB x4 and have a PReLU after each inner convolution")
    restorer = ConvRestorer(autoencoder.latent_channels, width, blocks=len(slopes) - 1, eta=1.0, block="plain")
    restorer.entry.weight.copy_(layers[0][0])
    restorer.entry.bias.copy_(layers[0][1] + 0.5 * layers[0][0].sum(dim=(1, 2, 3)))  # reads x - 0.5
    for (weight, bias), slope, block in zip(layers[1:-1], slopes[:-1], restorer.body, strict=False):
        block[0].weight.copy_(slope)
        block[1].weight.copy_(weight)
        block[1].bias.copy_(bias)
    restorer.body[-1].weight.copy_(slopes[-1])

    def from_features(features: Tensor) -> Tensor:
        return autoencoder.encode(F.pixel_shuffle(F.conv2d(features, *layers[-1], padding=1), _SCALE))

    kernel, constant = cell_kernel(from_features, width)
    restorer.exit.weight[:-1].copy_(kernel)
    # encode is affine: its own constant is in both maps, and belongs to the enlarged input's.
    offset = autoencoder.encode(torch.zeros(1, 3, 8, 8))[0, :, 0, 0]
    restorer.exit.bias[:-1].copy_(constant - offset)
    weight, bias = enlarged_skip(autoencoder.encode, "nearest")
    restorer.skip.weight.copy_(weight)
    restorer.skip.bias.copy_(bias)
    return restorer
