"""Texture prompt: texture classifier on latents, Reference Texture Memory, similarity-aware encoder (Algorithm 1)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from patchscaler.errors import ConfigError
from patchscaler.models.autoencoder import ResidualBlock
from patchscaler.models.base import ConfigMixin, ModelMixin, register_to_config


class Retrieval(NamedTuple):
    """The K best textures of each patch: places in the memory (n,K), their similarities in [-1,1] (n,K), best first."""

    places: Tensor
    similarities: Tensor


class TextureClassifier(ModelMixin, ConfigMixin):
    """Latent patch -> unit vector that says what texture it is: the keys of the memory and the queries to it.

    Channel means and deviations over the patch are what enters the last layer, so the place of a texture within the
    patch does not matter. `predict` maps the vector to the features of the pretrained network that it was trained to
    match.
    """

    @register_to_config
    def __init__(
        self, latent_channels: int = 32, width: int = 96, blocks: int = 3, features: int = 128, targets: int = 240
    ) -> None:
        super().__init__()
        self.entry = nn.Conv2d(latent_channels, width, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.project = nn.Linear(2 * width, features)
        self.predict = nn.Linear(features, targets)

    def forward(self, patches: Float[Tensor, "n c V V"]) -> Float[Tensor, "n features"]:
        """Any patch side; float32 vectors of length 1."""
        x = self.body(self.entry(patches.to(self.dtype)))
        statistics = torch.cat([x.mean(dim=(2, 3)), x.float().std(dim=(2, 3), correction=0).to(x.dtype)], dim=1)
        return F.normalize(self.project(statistics).float(), dim=1)


class ReferenceTextureMemory(ModelMixin, ConfigMixin):
    """`size` HR latent patches (values) under their classifier features (keys).

    Values are 8-bit with one scale per channel: half the space of half precision, with an error far below what the
    texture encoder can tell apart. An empty memory (all zero) is valid until `fill` is called.
    """

    @register_to_config
    def __init__(self, latent_channels: int = 32, sample_size: int = 16, features: int = 128, size: int = 2000) -> None:
        super().__init__()
        self.register_buffer(
            "texture_values", torch.zeros(size, latent_channels, sample_size, sample_size, dtype=torch.int8)
        )
        self.register_buffer("value_scale", torch.ones(latent_channels))
        self.register_buffer("texture_keys", torch.zeros(size, features))

    @torch.no_grad()
    def fill(self, values: Float[Tensor, "size c V V"], keys: Float[Tensor, "size features"]) -> None:
        """Stores float latents and their keys; the sizes must be the config's (ConfigError)."""
        if values.shape != self.texture_values.shape or keys.shape != self.texture_keys.shape:
            raise ConfigError(
                f"memory holds values {tuple(self.texture_values.shape)} and keys {tuple(self.texture_keys.shape)}, "
                f"not {tuple(values.shape)} and {tuple(keys.shape)}"
            )
        # The largest 0.1 % are clipped: heavy tails would spend the 8 bits on values that hardly occur.
        self.value_scale.copy_(_limits(values) / 127)
        self.texture_values.copy_((values / self.value_scale[:, None, None]).round().clamp(-127, 127).to(torch.int8))
        self.texture_keys.copy_(F.normalize(keys.float(), dim=1))

    def forward(
        self, queries: Float[Tensor, "n features"], top_k: int
    ) -> tuple[Float[Tensor, "n k c V V"], Float[Tensor, "n k"]]:
        """The top_k textures of each query, best first, and their similarities."""
        found = self.retrieve(queries, top_k)
        return self.read(found.places), found.similarities

    def retrieve(self, queries: Float[Tensor, "n features"], top_k: int) -> Retrieval:
        """Algorithm 1: the top_k textures by normalised inner product."""
        similarity = F.normalize(queries.float(), dim=1) @ self.texture_keys.float().T
        best = similarity.topk(top_k, dim=1)
        return Retrieval(best.indices, best.values)

    def read(self, places: Int[Tensor, "n k"]) -> Float[Tensor, "n k c V V"]:
        """The latents at these places, float32."""
        return self.texture_values[places].float() * self.value_scale.float()[:, None, None]


def _limits(values: Tensor) -> Tensor:
    """99.9 % quantile of the absolute value, per channel."""
    flat = values.float().abs().transpose(0, 1).flatten(1)
    return flat.kthvalue(max(1, int(0.999 * flat.shape[1])), dim=1).values.clamp(min=1e-6)


class TextureEncoder(ModelMixin, ConfigMixin):
    """Retrieved textures and their similarities -> tokens for Patch-DiT's cross-attention.

    parameter   | meaning
    ------------|--------------------------------------------------------------------------------------
    patch_size  | side of a token in latents; each texture gives (sample_size / patch_size)^2 tokens
    width       | channels of a token
    top_k       | K textures per patch

    The similarity scales and shifts all tokens of its texture, so a poor match can be turned down.
    """

    @register_to_config
    def __init__(
        self, latent_channels: int = 32, sample_size: int = 16, patch_size: int = 4, width: int = 256, top_k: int = 4
    ) -> None:
        super().__init__()
        if sample_size % patch_size:
            raise ConfigError(f"sample_size {sample_size} must be a multiple of patch_size {patch_size}")
        self.patch = patch_size
        self.entry = nn.Linear(latent_channels * patch_size**2, width)
        self.positions = nn.Parameter(torch.zeros((sample_size // patch_size) ** 2, width))
        self.similarity_in = nn.Linear(1, 64)
        self.similarity_out = nn.Linear(64, 2 * width)
        self.hidden = nn.Linear(width, 2 * width)
        self.exit = nn.Linear(2 * width, width)
        nn.init.normal_(self.positions, std=0.02)
        nn.init.zeros_(self.similarity_out.weight)
        nn.init.zeros_(self.similarity_out.bias)

    def forward(
        self, values: Float[Tensor, "n k c V V"], similarities: Float[Tensor, "n k"]
    ) -> Float[Tensor, "n tokens width"]:
        """tokens = K * (V / patch_size)^2, texture by texture."""
        dtype = self.dtype
        x = rearrange(values.to(dtype), "n k c (h p) (w q) -> n k (h w) (c p q)", p=self.patch, q=self.patch)
        x = self.entry(x) + self.positions.to(dtype)
        weight = self.similarity_out(F.silu(self.similarity_in(similarities.to(dtype)[..., None, None])))
        scale, shift = weight.chunk(2, dim=-1)
        x = F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift
        x = x + self.exit(F.gelu(self.hidden(x), approximate="tanh"))
        return rearrange(F.layer_norm(x, x.shape[-1:]), "n k t d -> n (k t) d")


def farthest_points(points: Float[Tensor, "n d"], count: int, first: int = 0) -> Int[Tensor, " count"]:
    """Farthest-point sampling: indices of `count` points, each farthest from all chosen before; starts with `first`."""
    if not 1 <= count <= len(points):
        raise ConfigError(f"can't choose {count} of {len(points)} points")
    chosen = torch.empty(count, dtype=torch.int64, device=points.device)
    distance = torch.full((len(points),), torch.inf, device=points.device)
    squares = points.square().sum(dim=1)
    place = torch.tensor(first, device=points.device)
    for number in range(count):
        chosen[number] = place
        fresh = squares + squares[place] - 2 * (points @ points[place])
        distance = torch.minimum(distance, fresh)
        distance[place] = -torch.inf  # never twice, not even among equal points
        place = distance.argmax()
    return chosen
