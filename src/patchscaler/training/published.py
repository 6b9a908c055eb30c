"""Published weights as starting points of ours: Real-ESRGAN's compact and RRDB networks.

What follows their last nonlinearity is linear, and so is the DCT encoder: both together are one linear map onto the
latent grid, which our last layers hold exactly. So a restorer begins with the published network's picture, in our
latents, and only ln e (Eq. 1) begins untrained.

    compact  SRVGGNetCompact x4: a row of 3x3 convolutions with PReLU at LR resolution, one convolution to 48 channels,
             PixelShuffle(4) and the nearest-neighbour enlarged input added -> ConvRestorer, the tiny GRM
    RRDB     RRDBNet x4 (Real-ESRGAN x4plus and its kin) -> RrdbRestorer, the second restorer of the GRM

Each is read from its authors' checkpoint (.pth), or ncnn's .bin of it.
"""

import struct
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from patchscaler.errors import WeightsError
from patchscaler.imaging.geometry import STRIDE
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.models.restorer import ConvRestorer, cell_kernel, enlarged_skip
from patchscaler.models.rrdb import RrdbRestorer

_SCALE = 4
_HALF = 0x01306B47  # ncnn's mark of weights in half precision
_KERNEL = STRIDE + 2  # of a 3x3 convolution followed by a block transform


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pth file in their order, float32, of the averaged weights where it has them. WeightsError."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the unpickler says, it isn't a checkpoint that we read
        raise WeightsError(f"{path}: not a checkpoint: {error}") from error
    state = state.get("params_ema", state.get("params", state))
    return {name: value.float() for name, value in state.items()}


class NcnnFile:
    """ncnn's .bin, which holds weights in the order of the layers and nothing of their shapes.

    what  the network that it should hold, for WeightsError
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        self._data, self._place = path.read_bytes(), 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._place

    def values(self, count: int, kind: type[np.floating] = np.float32) -> Tensor:
        """The next so many numbers."""
        try:
            found = np.frombuffer(self._data, kind, count, self._place)
        except ValueError as error:
            raise WeightsError(f"{self.path}: not the .bin of {self.what}: {error}") from error
        self._place += (found.nbytes + 3) // 4 * 4
        return torch.from_numpy(found.astype(np.float32))

    def convolution(self, channels: int, read: int) -> tuple[Tensor, Tensor]:
        """Weight (channels,read,3,3) and bias of the next layer."""
        mark = struct.unpack_from("<I", self._data, self._place)[0] if self.left >= 4 else None
        if mark not in (0, _HALF):
            raise WeightsError(f"{self.path}: not the .bin of {self.what}")
        self._place += 4
        weight = self.values(channels * read * 9, np.float16 if mark else np.float32)
        return weight.view(channels, read, 3, 3), self.values(channels)

    def close(self) -> None:
        """Raises WeightsError unless everything has been read."""
        if self.left:
            raise WeightsError(f"{self.path}: {self.left} bytes are left over; not the .bin of {self.what}")


def read_compact(path: str | Path) -> list[Tensor]:
    """Weights of a compact network in the order of its layers: weight, bias, slopes, ..., weight, bias.

    path: the authors' checkpoint (.pth), or ncnn's .bin of it. WeightsError when it is something else.
    """
    path = Path(path)
    if path.suffix == ".bin":
        return _compact_from_ncnn(NcnnFile(path, "a compact network"))
    state = read_checkpoint(path)
    if not all(key.startswith("body.") for key in state):
        raise WeightsError(f"{path}: not a compact network (SRVGGNetCompact)")
    return list(state.values())


def _compact_from_ncnn(file: NcnnFile, width: int = 64, out: int = 3 * _SCALE**2) -> list[Tensor]:
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


def read_rrdb(path: str | Path) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of each convolution of an RRDB network x4, in the order in which they run.

    path: the authors' checkpoint (.pth), or ncnn's .bin of it. Raises WeightsError when it is something else.
    """
    path = Path(path)
    if path.suffix == ".bin":
        return _rrdb_from_ncnn(NcnnFile(path, "an RRDB network"))
    state = read_checkpoint(path)
    # RRDBNet of the authors lists its convolutions in the order in which they run.
    weights = [name for name in state if name.endswith(".weight")]
    if not weights or weights[0] != "conv_first.weight" or weights[-1] != "conv_last.weight":
        raise WeightsError(f"{path}: not an RRDB network (RRDBNet)")
    return [(state[name], state[name.removesuffix("weight") + "bias"]) for name in weights]


def _rrdb_from_ncnn(file: NcnnFile, width: int = 64, growth: int = 32) -> list[tuple[Tensor, Tensor]]:
    dense = [(width + i * growth, growth) for i in range(4)] + [(width + 4 * growth, width)]
    block = 3 * sum(9 * read * out * 2 + 4 + 4 * out for read, out in dense)
    blocks = file.left // block  # the other layers together are smaller than one
    shapes = [(3, width), *(3 * blocks * dense), *(4 * [(width, width)]), (width, 3)]
    layers = [file.convolution(out, read) for read, out in shapes]
    file.close()
    return layers


@torch.no_grad()
def restorer_from_rrdb(layers: list[tuple[Tensor, Tensor]], autoencoder: DctAutoencoder) -> RrdbRestorer:
    """An RrdbRestorer whose latents are `autoencoder.encode` of the published network's picture (not clamped)."""
    (width, _, _, _), (growth, _, _, _) = layers[0][0].shape, layers[1][0].shape
    blocks, rest = divmod(len(layers) - 6, 15)
    if rest or blocks < 1:
        raise WeightsError(f"{len(layers)} convolutions are not those of an RRDB network x4")
    restorer = RrdbRestorer(autoencoder.latent_channels, width, growth, blocks)
    own = [restorer.entry]
    own += [c for block in restorer.body for dense in block for c in dense.convolutions]
    own += [restorer.close, *restorer.rise, restorer.fine]
    for convolution, (weight, bias) in zip(own, layers[:-1], strict=True):
        convolution.weight.copy_(weight)
        convolution.bias.copy_(bias)
    weight, bias = layers[-1]

    def from_features(features: Tensor) -> Tensor:  # (n,width,10,10) -> (n,c,1,1)
        return autoencoder.encode(F.conv2d(features, weight, bias))

    constant = from_features(torch.zeros(1, width, _KERNEL, _KERNEL))
    impulses = torch.eye(width * _KERNEL**2).view(-1, width, _KERNEL, _KERNEL)
    kernel = torch.cat([from_features(part) for part in impulses.split(1024)]) - constant
    restorer.exit.weight.copy_(kernel[:, :, 0, 0].T.reshape(restorer.exit.weight.shape))
    restorer.exit.bias.copy_(constant[0, :, 0, 0])
    return restorer
