"""The model's networks as ONNX graphs without weights, which `engines.onnx` runs with the weights of any model folder
of the same architecture.

Every weight is an initializer of the name `part.tensor`, as in the part's safetensors file, whose values lie elsewhere.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchscaler.errors import ConfigError
from patchscaler.imaging.dct import dct_bases
from patchscaler.imaging.geometry import STRIDE
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.models.model import Model
from patchscaler.models.restorer import Restoration
from patchscaler.models.rrdb import SecondOpinion

_LARGEST = 2**15  # patches, and latents along a side


class Graph(NamedTuple):
    """A network to be written.

    module   whose parameters and buffers become initializers
    inputs   by name: an example, and the sizes of its axes that are free
    outputs  by name: the names of its axes that are free
    """

    module: nn.Module
    inputs: dict[str, tuple[Tensor, dict[int, Any]]]
    outputs: dict[str, dict[int, str]]


class _PReLU(nn.PReLU):
    """ONNX Runtime's own operator takes two and a half times as long."""

    def forward(self, x: Tensor) -> Tensor:
        positive = F.relu(x)
        return positive + self.weight[:, None, None] * (x - positive)


class _Network(nn.Module):
    """Parts of a model, by whose names their weights are called, and what a graph does with them and its inputs."""

    def __init__(self, run: Callable[..., Any], **parts: nn.Module | None) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *inputs: Tensor) -> Any:
        return self.run(self, *inputs)


def _restore(own: Any, pixels: Tensor) -> tuple[Tensor, ...]:
    restored, features = own.restorer(pixels, with_features=True)
    return (*restored, features)


def _gate(own: Any, features: Tensor) -> Tensor:
    exit: Tensor = own.fusion["gate_exit"](F.leaky_relu(own.fusion["gate_entry"](features), 0.1))
    return exit


def _second(own: Any, pixels: Tensor) -> tuple[Tensor, ...]:
    return tuple(own.second_restorer(pixels))


def _fuse(own: Any, features: Tensor, latents: Tensor, log_error: Tensor, *second: Tensor) -> tuple[Tensor, ...]:
    *opinion, lean = second
    return tuple(own.fusion(features, Restoration(latents, log_error), SecondOpinion(*opinion), lean))


def _prompt(own: Any, patches: Tensor, keys: Tensor, values: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Algorithm 1. The memory is an input, so that its size is free; keys are (n,depth,heads,head width,tokens)."""
    similarity = own.texture_classifier(patches) @ keys
    best = similarity.topk(int(own.texture_encoder.config["top_k"]), dim=1)
    textures = values[best.indices].float() * scale[:, None, None]
    cache = own.patch_dit.texture_cache(own.texture_encoder(textures, best.values))
    return cache.keys.transpose(-1, -2), cache.values


def _denoise(
    own: Any, x_t: Tensor, t: Tensor, coarse: Tensor, error: Tensor, rows: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    """`PatchDiT.forward` at one time step for all patches, so that what depends on it alone is the scale and shift of
    the layer norms; `rows` are the patches that read a texture prompt, whose keys and values are given."""
    dit = own.patch_dit
    x = dit.embed(x_t, coarse, error)
    time, modulation = dit.modulate(t)
    n, length, width = x.shape
    for layer, key, value in zip(dit.layers, keys.unbind(1), values.unbind(1), strict=True):
        m = (modulation[0] + layer.table).unbind(0)
        qkv = layer.qkv(_normalise(x, 1 + m[1], m[0])).view(n, length, 3, layer.heads, width // layer.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        x = x + m[2] * layer.attention_out(_attend(q, k.transpose(-1, -2), v))
        q = layer.texture_query(_normalise(x[rows])).view(-1, length, layer.heads, width // layer.heads)
        x = x.index_add(0, rows, m[6] * layer.texture_out(_attend(q.transpose(1, 2), key, value)))
        hidden = F.gelu(layer.mlp_in(_normalise(x, 1 + m[4], m[3])), approximate="tanh")
        x = x + m[5] * layer.mlp_out(hidden)
    shift, scale = (dit.exit_table + time).unbind(0)
    prediction: Tensor = dit.leave(dit.exit(_normalise(x, 1 + scale, shift)), coarse)
    return prediction


def _normalise(x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], scale, shift, eps=1e-6)


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """query (n,heads,t,e), key (n,heads,e,k), value (n,heads,k,e) -> (n,t,heads*e)."""
    weights = torch.softmax(query @ key * query.shape[-1] ** -0.5, dim=-1)
    return (weights @ value).transpose(1, 2).flatten(2)


def _decode(synthesis: Tensor, own: Any, latents: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The statistics of the latents stand in the autoencoder's config, and are inputs."""
    blocks = F.conv_transpose2d(latents * std + mean, synthesis, stride=STRIDE)
    pixels: Tensor = blocks + own.autoencoder.detail(latents)
    return pixels


def graphs_of(model: Model) -> dict[str, Graph]:
    """The graphs of a model, by the name of their files. Raises ConfigError for a model unlike `tiny`."""
    pixels = isinstance(model.autoencoder, DctAutoencoder) and model.restorer.input_kind == "pixels"
    if not pixels or model.texture_memory is None:
        raise ConfigError("only models like `tiny` have graphs: ConvRestorer, DctAutoencoder, prompts of texture")
    c, side = int(model.patch_dit.config["latent_channels"]), model.patch
    n, m, h, w, size = (torch.export.Dim(name, min=1, max=_LARGEST) for name in ("n", "m", "h", "w", "size"))

    def plane(channels: int, of_latent: int = 1, border: int = 0) -> tuple[Tensor, dict[int, Any]]:
        """So many channels of any height and width; cells per latent, and cells more in all."""
        sides = {axis: of_latent * side + border if border else of_latent * side for axis, side in ((2, h), (3, w))}
        return torch.zeros(1, channels, of_latent * 5 + border, of_latent * 7 + border), sides

    def patches(count: int, channels: int = c) -> tuple[Tensor, dict[int, Any]]:
        return torch.zeros(count, channels, side, side), {0: n}

    read = 4 * int(model.restorer.config["width"])
    some, cells = {2: "h", 3: "w"}, {2: "h + 2", 3: "w + 2"}
    restored = {"latents": some, "log_error": some, "features": cells}
    for module in model.restorer.modules():
        if isinstance(module, nn.PReLU):
            module.__class__ = _PReLU
    restorer = _Network(_restore, restorer=model.restorer)
    graphs = {"restorer": Graph(restorer, {"pixels": plane(3, 2)}, restored)}
    if model.fusion is not None and model.second_restorer is not None:
        ends = nn.ModuleDict({name: getattr(model.fusion, name) for name in ("gate_entry", "gate_exit")})
        gate, fuse = _Network(_gate, fusion=ends), _Network(_fuse, fusion=model.fusion)
        graphs["gate"] = Graph(gate, {"features": plane(read, border=2)}, {"gain": some})
        opinion = {"latents": some, "features": {2: "2*h", 3: "2*w"}}
        second_restorer = _Network(_second, second_restorer=model.second_restorer)
        graphs["second_restorer"] = Graph(second_restorer, {"pixels": plane(3, 2)}, opinion)
        first = {"features": plane(read, border=2), "latents": plane(c), "log_error": plane(1)}
        width = int(model.second_restorer.config["width"])
        second = {"second_latents": plane(c), "second_features": plane(width, 2), "lean": (torch.zeros(()), {})}
        graphs["fusion"] = Graph(fuse, first | second, {"fused_latents": some, "fused_log_error": some})
    memory, parts = model.texture_memory, {"texture_encoder": model.texture_encoder, "patch_dit": model.patch_dit}
    prompt = _Network(_prompt, texture_classifier=model.texture_classifier, **parts)
    textures = {
        "memory_keys": (memory.texture_keys.float().T, {1: size}),
        "memory_values": (memory.texture_values, {0: size}),
        "value_scale": (memory.value_scale.float(), {}),
    }
    graphs["prompt"] = Graph(prompt, {"coarse": patches(3)} | textures, {"keys": {0: "n"}, "values": {0: "n"}})
    with torch.no_grad():
        keys, values = prompt(torch.zeros(3, c, side, side), *(tensor for tensor, _ in textures.values()))
    noisy = {"x_t": patches(5), "t": (torch.zeros(1, dtype=torch.int64), {}), "coarse": patches(5)}
    prompted = {"rows": (torch.arange(3), {0: m}), "keys": (keys, {0: m}), "values": (values, {0: m})}
    inputs = noisy | {"log_error": patches(5, 1)} | prompted
    graphs["patch_dit"] = Graph(_Network(_denoise, patch_dit=model.patch_dit), inputs, {"prediction": {0: "n"}})
    luma, chroma = (int(model.autoencoder.config[name]) for name in ("luma", "chroma"))
    synthesis = torch.from_numpy(dct_bases(luma, chroma, STRIDE)[1])
    decoder = _Network(partial(_decode, synthesis), autoencoder=model.autoencoder)
    statistics: dict[str, Any] = {name: (torch.zeros(c, 1, 1), {}) for name in ("mean", "std")}
    graphs["decoder"] = Graph(decoder, {"latents": plane(c)} | statistics, {"pixels": {2: "8*h", 3: "8*w"}})
    return graphs
