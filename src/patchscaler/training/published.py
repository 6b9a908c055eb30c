"""Published RRDB networks (Real-ESRGAN x4plus and its kin) as the second restorer of the GRM."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from patchscaler.errors import WeightsError
from patchscaler.models.autoencoder import STRIDE, DctAutoencoder
from patchscaler.models.rrdb import RrdbRestorer

_HALF = 0x01306B47  # ncnn's mark of weights in half precision
_KERNEL = STRIDE + 2  # of a 3x3 convolution followed by a block transform


def read_rrdb(path: str | Path) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of each convolution of an RRDB network x4, in the order in which they run.

    path: the authors' checkpoint (.pth), or ncnn's .bin of it. Raises WeightsError when it is something else.
    """
    path = Path(path)
    if path.suffix == ".bin":
        return _read_ncnn(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the unpickler says, it isn't a checkpoint that we read
        raise WeightsError(f"{path}: not a checkpoint: {error}") from error
    state = state.get("params_ema", state.get("params", state))
    # RRDBNet of the authors lists its convolutions in the order in which they run.
    weights = [name for name in state if name.endswith(".weight")]
    if not weights or weights[0] != "conv_first.weight" or weights[-1] != "conv_last.weight":
        raise WeightsError(f"{path}: not an RRDB network (RRDBNet)")
    return [(state[name].float(), state[name.removesuffix("weight") + "bias"].float()) for name in weights]


def _read_ncnn(path: Path, width: int = 64, growth: int = 32) -> list[tuple[Tensor, Tensor]]:
    data, place = path.read_bytes(), 0
    dense = [(width + i * growth, growth) for i in range(4)] + [(width + 4 * growth, width)]
    size = sum(9 * a * b * 2 + 4 + 4 * b for a, b in dense)
    blocks = len(data) // (3 * size)  # the other layers together are smaller than one
    shapes = [(3, width), *(3 * blocks * dense), *(4 * [(width, width)]), (width, 3)]
    layers = []
    for read, channels in shapes:
        count = read * channels * 9
        mark = int.from_bytes(data[place : place + 4], "little")
        if mark not in (0, _HALF) or place + count > len(data):
            raise WeightsError(f"{path}: not the .bin of an RRDB network")
        kind = np.dtype(np.float16 if mark else np.float32)
        values = np.frombuffer(data, kind, count, place + 4)
        place += 4 + (values.nbytes + 3) // 4 * 4
        bias = np.frombuffer(data, np.float32, channels, place)
        place += bias.nbytes
        weight = torch.from_numpy(values.astype(np.float32)).view(channels, read, 3, 3)
        layers.append((weight, torch.from_numpy(bias.copy())))
    if place != len(data):
        raise WeightsError(f"{path}: {len(data) - place} bytes are left over; not the .bin of an RRDB network")
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
