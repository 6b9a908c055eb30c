"""Patch-DiT for sampling: the same function of patches that share a time step, with less arithmetic around it.

All that depends on the time step alone is folded into the weights once per step: with LN the layer norm, s and b scale
and shift, g the gate,

    W (LN(x) (1 + s) + b) + c  =  (W diag(1 + s)) LN(x) + (W b + c)        g (W y + c)  =  (diag(g) W) y + g c

so that no modulation passes over the tokens are left, and gated outputs are added to the residual stream in place. No
gradients: training uses `PatchDiT.forward`. So do weights that can't be read past their layers (`weights_lie_open`).
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from patchscaler.models.patch_dit import PatchDiT, TextureCache

_GELU_ROWS = 256  # tokens at a time: their hidden channels stay in the processor's cache over all of GELU's passes


class Folded(NamedTuple):
    """A linear layer with what surrounds it: weight (out,in) and bias (out,)."""

    weight: Tensor
    bias: Tensor


class FoldedBlock(NamedTuple):
    """One block at one time step; texture_query, texture_out: None where no prompt is read."""

    qkv: Folded
    attention_out: Folded
    mlp_in: Folded
    mlp_out: Folded
    texture_query: Folded | None = None
    texture_out: Folded | None = None


class FoldedDiT:
    """`PatchDiT.forward` for one time step per call; remembers the weights of the newest step."""

    def __init__(self, network: PatchDiT) -> None:
        self.network = network
        self._step: int | None = None
        self._blocks: list[FoldedBlock] = []
        self._exit: Folded | None = None

    @torch.inference_mode()
    def __call__(
        self,
        x_t: Float[Tensor, "n c V V"],
        step: int,
        coarse: Float[Tensor, "n c V V"],
        log_error: Float[Tensor, "n 1 V V"],
        texture: TextureCache | None = None,
    ) -> Float[Tensor, "n c V V"]:
        """As `PatchDiT.forward` with t = step for every patch."""
        network: Any = self.network
        tokens = network.embed(x_t, coarse, log_error)  # first: offloaded weights come to the device with it
        self._fold(step)
        assert self._exit is not None
        prompted = None if texture is None else network.prompted(log_error)
        if prompted is not None and (prompted.all() or not prompted.any()):  # one answer for all patches
            texture, prompted = texture if prompted.all() else None, None
        n, length, width = tokens.shape
        heads = network.layers[0].heads
        x = tokens.reshape(n * length, width)
        for number, block in enumerate(self._blocks):
            qkv = F.linear(_normalise(x), *block.qkv).view(n, length, 3, heads, width // heads)
            _attend_into(x, qkv.permute(2, 0, 3, 1, 4).unbind(0), block.attention_out)
            if texture is not None and block.texture_query and block.texture_out:
                q = F.linear(_normalise(x), *block.texture_query).view(n, length, heads, width // heads)
                keys, values = texture.keys[:, number].to(q.dtype), texture.values[:, number].to(q.dtype)
                _attend_into(x, (q.transpose(1, 2), keys, values), block.texture_out, prompted)
            hidden = _gelu_(F.linear(_normalise(x), *block.mlp_in))
            _add_linear_(x, hidden, block.mlp_out)
        out = F.linear(_normalise(x), *self._exit).view(n, length, -1)
        return network.leave(out, coarse)

    def _fold(self, step: int) -> None:
        if step == self._step:
            return
        network: Any = self.network
        t = torch.tensor([step], device=network.entry.weight.device)
        time, modulation = network.modulate(t)
        self._blocks = [_fold_block(layer, modulation[0]) for layer in network.layers]
        shift, scale = (network.exit_table + time).float().unbind(0)
        self._exit = _fold_input(network.exit, shift, scale)
        self._step = step


def _fold_block(layer: Any, modulation: Tensor) -> FoldedBlock:
    m = (modulation + layer.table).float().unbind(0)  # as in Block.forward
    folded = FoldedBlock(
        qkv=_fold_input(layer.qkv, m[0], m[1]),
        attention_out=_fold_gate(layer.attention_out, m[2]),
        mlp_in=_fold_input(layer.mlp_in, m[3], m[4]),
        mlp_out=_fold_gate(layer.mlp_out, m[5]),
    )
    if not hasattr(layer, "texture_query"):
        return folded
    query = Folded(layer.texture_query.weight, layer.texture_query.bias)
    return folded._replace(texture_query=query, texture_out=_fold_gate(layer.texture_out, m[6]))


def _fold_input(linear: nn.Linear, shift: Tensor, scale: Tensor) -> Folded:
    weight, bias = linear.weight.float(), linear.bias.float()
    dtype = linear.weight.dtype
    return Folded((weight * (1 + scale)).to(dtype), (weight @ shift + bias).to(dtype))


def _fold_gate(linear: nn.Linear, gate: Tensor) -> Folded:
    weight, bias = linear.weight.float(), linear.bias.float()
    dtype = linear.weight.dtype
    return Folded((gate[:, None] * weight).to(dtype), (gate * bias).to(dtype))


def _normalise(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def _attend_into(x: Tensor, qkv: tuple[Tensor, ...], out: Folded, rows: Tensor | None = None) -> None:
    """Adds the projected attention to x (n * tokens, width); rows (n,) bool: of these patches alone."""
    query, key, value = qkv
    y = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(x.shape)
    if rows is None:
        _add_linear_(x, y, out)
    else:  # adds exact zeros to the others, so it makes no difference which patches are together
        reading = rows.to(x.dtype)[:, None, None]
        x.addmm_((y.view(len(rows), -1, x.shape[1]) * reading).view(x.shape), out.weight.T)
        x.view(len(rows), -1, x.shape[1]).add_(reading * out.bias)


def _add_linear_(x: Tensor, y: Tensor, linear: Folded) -> None:
    x.addmm_(y, linear.weight.T).add_(linear.bias)


def _gelu_(x: Tensor) -> Tensor:
    """F.gelu(x, approximate="tanh") in place. On the CPU by the logistic function, to which it is equal:
    tanh is three times as slow there."""
    if x.device.type != "cpu":
        return F.gelu(x, approximate="tanh")
    for rows in x.split(_GELU_ROWS):
        u = rows.square().mul_(0.0713548162726).add_(1.59576912161).mul_(rows)  # 2 sqrt(2/pi) (x + 0.044715 x^3)
        rows.mul_(u.sigmoid_())
    return x
