"""The model's networks as ONNX graphs without weights, which `engines.onnx` runs with the weights of any model folder
of the same architecture.

Every weight is an initializer of the name `part.tensor`, as in the part's safetensors file, whose values lie elsewhere.
"""

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


class _Restore(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.restorer = model.restorer
        for module in self.modules():
            if isinstance(module, nn.PReLU):
                module.__class__ = _PReLU

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        restored, features = self.restorer(pixels, with_features=True)
        return (*restored, features)


class _Gate(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        assert model.fusion is not None
        self.fusion = nn.ModuleDict({name: getattr(model.fusion, name) for name in ("gate_entry", "gate_exit")})

    def forward(self, features: Tensor) -> Tensor:
        return self.fusion["gate_exit"](F.leaky_relu(self.fusion["gate_entry"](features), 0.1))


class _Second(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.second_restorer = model.second_restorer

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.second_restorer(pixels))


class _Fuse(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.fusion = model.fusion

    def forward(self, features: Tensor, latents: Tensor, log_error: Tensor, *second: Tensor) -> tuple[Tensor, ...]:
        *opinion, lean = second
        return tuple(self.fusion(features, Restoration(latents, log_error), SecondOpinion(*opinion), lean))


class _Prompt(nn.Module):
    """Algorithm 1. The memory is an input, so that its size is free; keys are (n,depth,heads,head width,tokens)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.texture_classifier, self.texture_encoder = model.texture_classifier, model.texture_encoder
        self.patch_dit = model.patch_dit

    def forward(self, patches: Tensor, memory_keys: Tensor, memory_values: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        similarity = self.texture_classifier(patches) @ memory_keys
        best = similarity.topk(int(self.texture_encoder.config["top_k"]), dim=1)
        textures = memory_values[best.indices].float() * scale[:, None, None]
        cache = self.patch_dit.texture_cache(self.texture_encoder(textures, best.values))
        return cache.keys.transpose(-1, -2), cache.values


class _Denoise(nn.Module):
    """`PatchDiT.forward` at one time step for all patches, so that what depends on it alone is the scale and shift of
    the layer norms; `rows` are the patches that read a texture prompt, whose keys and values are given."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.patch_dit = model.patch_dit

    def forward(
        self, x_t: Tensor, t: Tensor, coarse: Tensor, error: Tensor, rows: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        dit: Any = self.patch_dit
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
        return dit.leave(dit.exit(_normalise(x, 1 + scale, shift)), coarse)


def _normalise(x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], scale, shift, eps=1e-6)


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """query (n,heads,t,e), key (n,heads,e,k), value (n,heads,k,e) -> (n,t,heads*e)."""
    weights = torch.softmax(query @ key * query.shape[-1] ** -0.5, dim=-1)
    return (weights @ value).transpose(1, 2).flatten(2)


class _Decode(nn.Module):
    """The statistics of the latents stand in the autoencoder's config, and are inputs."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.autoencoder = model.autoencoder
        config = model.autoencoder.config
        self._synthesis = torch.from_numpy(dct_bases(config["luma"], config["chroma"], STRIDE)[1])

    def forward(self, latents: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        blocks = F.conv_transpose2d(latents * std + mean, self._synthesis, stride=STRIDE)
        return blocks + self.autoencoder.detail(latents)


def graphs_of(model: Model) -> dict[str, Graph]:
    """The graphs of a model, by the name of their files. Raises ConfigError for a model unlike `tiny`."""
    pixels = isinstance(model.autoencoder, DctAutoencoder) and model.restorer.input_kind == "pixels"
    if not pixels or model.texture_memory is None:
        raise ConfigError("only models like `tiny` have graphs: ConvRestorer, DctAutoencoder, prompts of texture")
    c, side = int(model.patch_dit.config["latent_channels"]), model.patch
    n, m, h, w, size = (torch.export.Dim(name, min=1, max=_LARGEST) for name in ("n", "m", "h", "w", "size"))

    def plane(channels: int, of_latent: int = 1, border: int = 0) -> tuple[Tensor, dict[int, Any]]:
        """So many channels of any height and width; cells per latent, and cells more in all."""
        sides = (
            {2: of_latent * h + border, 3: of_latent * w + border} if border else {2: of_latent * h, 3: of_latent * w}
        )
        return torch.zeros(1, channels, of_latent * 5 + border, of_latent * 7 + border), sides

    def patches(count: int, channels: int = c) -> tuple[Tensor, dict[int, Any]]:
        return torch.zeros(count, channels, side, side), {0: n}

    read = 4 * int(model.restorer.config["width"])
    some, cells = {2: "h", 3: "w"}, {2: "h + 2", 3: "w + 2"}
    restored = {"latents": some, "log_error": some, "features": cells}
    graphs = {"restorer": Graph(_Restore(model), {"pixels": plane(3, 2)}, restored)}
    if model.fusion is not None and model.second_restorer is not None:
        graphs["gate"] = Graph(_Gate(model), {"features": plane(read, border=2)}, {"gain": some})
        opinion = {"latents": some, "features": {2: "2*h", 3: "2*w"}}
        graphs["second_restorer"] = Graph(_Second(model), {"pixels": plane(3, 2)}, opinion)
        first = {"features": plane(read, border=2), "latents": plane(c), "log_error": plane(1)}
        width = int(model.second_restorer.config["width"])
        second = {"second_latents": plane(c), "second_features": plane(width, 2), "lean": (torch.zeros(()), {})}
        graphs["fusion"] = Graph(_Fuse(model), first | second, {"fused_latents": some, "fused_log_error": some})
    memory, prompt = model.texture_memory, _Prompt(model)
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
    graphs["patch_dit"] = Graph(_Denoise(model), inputs, {"prediction": {0: "n"}})
    statistics: dict[str, Any] = {name: (torch.zeros(c, 1, 1), {}) for name in ("mean", "std")}
    graphs["decoder"] = Graph(_Decode(model), {"latents": plane(c)} | statistics, {"pixels": {2: "8*h", 3: "8*w"}})
    return graphs
