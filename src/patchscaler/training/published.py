"""Published RRDB networks (Real-ESRGAN x4plus and its kin) as the second restorer of the GRM."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from patchscaler.errors import WeightsError
from patchscaler.models.autoencoder import STRIDE, DctAutoencoder
from patchscaler.models.rrdb import RrdbRestorer
from patchscaler.training.checkpoints import NcnnFile, read_checkpoint

_KERNEL = STRIDE + 2  # of a 3x3 convolution followed by a block transform


def read_rrdb(path: str | Path) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of each convolution of an RRDB network x4, in the order in which they run.

    path: the authors' checkpoint (.pth), or ncnn's .bin of it. Raises WeightsError when it is something else.
    """
    path = Path(path)
    if path.suffix == ".bin":
        return _read_ncnn(NcnnFile(path, "an RRDB network"))
    state = read_checkpoint(path)
    # RRDBNet of the authors lists its convolutions in the order in which they run.
    weights = [name for name in state if name.endswith(".weight")]
    if not weights or weights[0] != "conv_first.weight" or weights[-1] != "conv_last.weight":
        raise WeightsError(f"{path}: not an RRDB network (RRDBNet)")
    return [(state[name], state[name.removesuffix("weight") + "bias"]) for name in weights]


def _read_ncnn(file: NcnnFile, width: int = 64, growth: int = 32) -> list[tuple[Tensor, Tensor]]:
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
