"""Real-ESRGAN's compact networks (SRVGGNetCompact x4) as a starting point of the tiny GRM.

Such a network is a row of 3x3 convolutions with PReLU at LR resolution, one convolution to 48 channels, PixelShuffle(4)
and the nearest-neighbour enlarged input added: what follows the row is linear, and so is the DCT encoder. Both together
are one linear map onto the latent grid, which `ConvRestorer` holds exactly. So the restorer begins with the published
network's picture, in our latents, and only ln e (Eq. 1) begins untrained.
"""

import struct
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from patchscaler.errors import WeightsError
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.models.restorer import ConvRestorer, cell_kernel, enlarged_skip

_HALF = 0x01306B47  # ncnn's mark of weights in half precision
_SCALE = 4


def read_compact(path: str | Path) -> list[Tensor]:
    """Weights of a compact network in the order of its layers: weight, bias, slopes, ..., weight, bias.

    path: the authors' checkpoint (.pth), or ncnn's .bin of it. WeightsError when it is something else.
    """
    path = Path(path)
    if path.suffix == ".bin":
        return _read_ncnn(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the unpickler says, it isn't a checkpoint that we read
        raise WeightsError(f"{path}: not a checkpoint: {error}") from error
    state = state.get("params_ema", state.get("params", state))
    if not all(key.startswith("body.") for key in state):
        raise WeightsError(f"{path}: not a compact network (SRVGGNetCompact)")
    return [value.float() for value in state.values()]


def _read_ncnn(path: Path, width: int = 64, out: int = 3 * _SCALE**2) -> list[Tensor]:
    data, place, tensors = path.read_bytes(), 0, []

    def take(count: int, kind: type[np.floating]) -> Tensor:
        nonlocal place
        values = np.frombuffer(data, kind, count, place)
        place += (values.nbytes + 3) // 4 * 4
        return torch.from_numpy(values.astype(np.float32))

    def convolution(channels: int, read: int) -> None:
        nonlocal place
        (mark,) = struct.unpack_from("<I", data, place)
        place += 4
        if mark not in (0, _HALF):
            raise WeightsError(f"{path}: not the .bin of a compact network")
        weight = take(channels * read * 9, np.float16 if mark else np.float32)
        tensors.extend([weight.view(channels, read, 3, 3), take(channels, np.float32)])

    try:
        convolution(width, 3)
        tensors.append(take(width, np.float32))
        # Each further layer holds its slopes too; what remains at the end is the convolution to the pixels.
        while len(data) - place > 4 + out * width * 9 * 4 + out * 4:
            convolution(width, width)
            tensors.append(take(width, np.float32))
        convolution(out, width)
    except (ValueError, struct.error) as error:
        raise WeightsError(f"{path}: not the .bin of a compact network: {error}") from error
    if place != len(data):
        raise WeightsError(f"{path}: {len(data) - place} bytes are left over; not the .bin of a compact network")
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
