"""Published weights as starting points of ours: Real-ESRGAN's compact and RRDB networks.

What follows their last nonlinearity is linear, and so is the DCT encoder: both together are one linear map onto the
latent grid, which our last layers hold exactly. So a restorer begins with the published network's picture, in our
latents, and only ln e (Eq. 1) begins untrained.

    compact  SRVGGNetCompact x4: a row of 3x3 convolutions with PReLU at LR resolution, one convolution to 48 channels,
             PixelShuffle(4) and the nearest-neighbour enlarged input added -> ConvRestorer, the tiny GRM
    RRDB     RRDBNet x4 (Real-ESRGAN x4plus and its kin) -> RrdbRestorer, the second restorer of the GRM

Each is read from its authors' checkpoint.

The paper's networks can begin with the layers of others that have their shapes, which is less: SwinRestorer with those
of a SwinIR, Patch-DiT with those of a PixArt or DiT transformer of diffusers.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from patchscaler.errors import WeightsError
from patchscaler.imaging.geometry import STRIDE
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.models.patch_dit import PatchDiT
from patchscaler.models.restorer import ConvRestorer, cell_kernel, enlarged_skip
from patchscaler.models.rrdb import RrdbRestorer
from patchscaler.models.swin_restorer import SwinRestorer
from patchscaler.training.frozen import class_name

_SCALE = 4
_KERNEL = STRIDE + 2  # of a 3x3 convolution followed by a block transform


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pth or .safetensors file in their order, float32, of the averaged weights where it has them.

    Raises WeightsError.
    """
    try:
        if path.suffix == ".safetensors":
            return {name: value.float() for name, value in load_file(path).items()}
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the unpickler says, it isn't a checkpoint that we read
        raise WeightsError(f"{path}: not a checkpoint: {error}") from error
    state = state.get("params_ema", state.get("params", state))
    return {name: value.float() for name, value in state.items()}


def read_compact(path: Path) -> list[Tensor]:
    """Weights of a compact network in the order of its layers: weight, bias, slopes, ..., weight, bias.

    path: the authors' checkpoint. WeightsError when it is something else.
    """
    state = read_checkpoint(path)
    if not all(key.startswith("body.") for key in state):
        raise WeightsError(f"{path}: not a compact network (SRVGGNetCompact)")
    return list(state.values())


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


def read_rrdb(path: Path) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of each convolution of an RRDB network x4, in the order in which they run.

    path: the authors' checkpoint. Raises WeightsError when it is something else.
    """
    state = read_checkpoint(path)
    # RRDBNet of the authors lists its convolutions in the order in which they run.
    weights = [name for name in state if name.endswith(".weight")]
    if not weights or weights[0] != "conv_first.weight" or weights[-1] != "conv_last.weight":
        raise WeightsError(f"{path}: not an RRDB network (RRDBNet)")
    return [(state[name], state[name.removesuffix("weight") + "bias"]) for name in weights]


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


def begin_swin(restorer: SwinRestorer, state: dict[str, Tensor]) -> int:
    """Copies the layers of a SwinIR that fit into `restorer`; returns how many tensors. WeightsError: none does.

    Its first convolution reads pixels and its last ones make them: those stay ours. So does what ours has more of.
    """
    names = {"norm.": "norm.", "conv.": "conv_after_body."}
    body: Any = restorer.body
    for group, layers in enumerate(body):
        names[f"body.{group}.conv."] = f"layers.{group}.conv."
        for block in range(len(layers.layers)):
            own, theirs = f"body.{group}.layers.{block}.", f"layers.{group}.residual_group.blocks.{block}."
            names |= {
                f"{own}attention_norm.": f"{theirs}norm1.",
                f"{own}qkv.": f"{theirs}attn.qkv.",
                f"{own}attention_out.": f"{theirs}attn.proj.",
                f"{own}mlp_norm.": f"{theirs}norm2.",
                f"{own}mlp_in.": f"{theirs}mlp.fc1.",
                f"{own}mlp_out.": f"{theirs}mlp.fc2.",
            }
            table = state.get(f"{theirs}attn.relative_position_bias_table")
            if table is not None:  # SwinIR counts places from the key to the query, and heads last
                state = {**state, f"{own}place_bias": table.flip(0).T}
                names[f"{own}place_bias"] = f"{own}place_bias"
    return _copy_fitting(restorer, state, names, "SwinIR")


def load_transformer(folder: Path) -> nn.Module:
    """A PixArtTransformer2DModel or DiTTransformer2DModel of diffusers, saved in `folder`. Raises WeightsError."""
    import diffusers

    name = class_name(str(folder))
    if name not in ("PixArtTransformer2DModel", "DiTTransformer2DModel"):
        raise WeightsError(f"{folder} holds {name or 'no network'}, not a PixArt or DiT transformer of diffusers")
    transformer: nn.Module = getattr(diffusers, name).from_pretrained(folder)
    return transformer


def begin_patch_dit(patch_dit: PatchDiT, transformer: nn.Module) -> int:
    """Copies the layers of diffusers' PixArtTransformer2DModel or DiTTransformer2DModel that fit; returns how many
    tensors. Raises WeightsError where none does.

    A PixArt has what Patch-DiT has: adaLN-single, of which our seventh vector is not one, and cross-attention, whose
    queries and output are taken: keys and values are made of other tokens here. Of a DiT self-attention and MLP are
    taken; each of its blocks makes its own modulation.
    """
    state = dict(transformer.state_dict())
    names = {
        "time_in.": "adaln_single.emb.timestep_embedder.linear_1.",
        "time_out.": "adaln_single.emb.timestep_embedder.linear_2.",
        "exit_table": "scale_shift_table",
    }
    layers: Any = patch_dit.layers
    for number, layer in enumerate(layers):
        own, theirs = f"layers.{number}.", f"transformer_blocks.{number}."
        for kind in ("weight", "bias"):
            parts = [state.get(f"{theirs}attn1.to_{name}.{kind}") for name in "qkv"]
            if None not in parts:
                state[f"{own}qkv.{kind}"] = torch.cat(parts)  # type: ignore[arg-type]
        names |= {
            f"{own}qkv.": f"{own}qkv.",
            f"{own}attention_out.": f"{theirs}attn1.to_out.0.",
            f"{own}texture_query.": f"{theirs}attn2.to_q.",
            f"{own}mlp_in.": f"{theirs}ff.net.0.proj.",
            f"{own}mlp_out.": f"{theirs}ff.net.2.",
        }
        for name, source, target in (
            (f"{own}table", state.get(f"{theirs}scale_shift_table"), layer.table),
            ("modulation.weight", state.get("adaln_single.linear.weight"), patch_dit.modulation.weight),
            ("modulation.bias", state.get("adaln_single.linear.bias"), patch_dit.modulation.bias),
        ):
            rows = 0 if source is None else len(source)
            if source is not None and rows < len(target) and source.shape[1:] == target.shape[1:]:
                state[name] = torch.cat([source, target.detach()[rows:].to(source)])
                names[name] = name
    return _copy_fitting(patch_dit, state, names, "PixArt or DiT transformer")


@torch.no_grad()
def _copy_fitting(network: nn.Module, state: dict[str, Tensor], names: dict[str, str], what: str) -> int:
    """names: our tensor's name, or its beginning, -> theirs."""
    count = 0
    for name, parameter in network.named_parameters():
        start = next((own for own in names if name == own or (own.endswith(".") and name.startswith(own))), None)
        source = None if start is None else state.get(names[start] + name.removeprefix(start))
        if source is not None and source.shape == parameter.shape:
            parameter.copy_(source)
            count += 1
    if not count:
        raise WeightsError(f"no layer of this {what} has the shape of one of ours: see docs/paper-training.md")
    return count
