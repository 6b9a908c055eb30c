"""Patch-DiT: a diffusion transformer on latent patches, guided by texture tokens (paper, section 3.3).

DiT blocks with self-attention, cross-attention to the texture tokens and an MLP. Time enters by adaLN-single: one
shared projection gives seven vectors (shift, scale, gate of attention; the same of the MLP; the gate of
cross-attention) to which each block adds its own learned table. The seventh is the paper's "dimension-wise scaling
parameters based on the time embedding". Keys and values of the texture tokens don't depend on time, so `texture_cache`
computes them once per patch. Table 4's other prompts differ in who makes the tokens, and in nothing else.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from patchscaler.errors import ConfigError
from patchscaler.models.base import ConfigMixin, ModelMixin, apply_forward_hook, register_to_config

_TIME_FEATURES = 256
PROMPTS = ("texture", "text", "none")
CAPTIONER, TEXT_ENCODER = "Salesforce/blip2-opt-2.7b", "openai/clip-vit-large-patch14"


class TextureCache(NamedTuple):
    """Keys and values of the texture tokens for every block, (n, depth, heads, tokens, head width)."""

    keys: Tensor
    values: Tensor


def _sincos_positions(side: int, width: int) -> Tensor:
    """Fixed two-dimensional sine-cosine embedding, (side * side, width): half for the row, half for the column.

    float32 whatever the default dtype, which diffusers changes while it loads a model.
    """
    frequencies = torch.exp(-math.log(10_000.0) * torch.arange(width // 4, dtype=torch.float32) / (width // 4))
    angles = torch.arange(side, dtype=torch.float32)[:, None] * frequencies[None]
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows = line[:, None].expand(side, side, -1)
    columns = line[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=2).reshape(side * side, width)


def _time_features(t: Tensor) -> Tensor:
    """Sine-cosine features of the time step, (n, 256) float32."""
    half = _TIME_FEATURES // 2
    frequencies = torch.exp(-math.log(10_000.0) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t.float()[:, None] * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def _normalise(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class Block(nn.Module):
    """One DiT block. Its modulation is zero at the start, so it begins as the identity."""

    def __init__(self, width: int, heads: int, hidden: int, texture_width: int | None) -> None:
        """texture_width: None: without cross-attention."""
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        if texture_width is not None:
            self.texture_query = nn.Linear(width, width)
            self.texture_key_value = nn.Linear(texture_width, 2 * width)
            self.texture_out = nn.Linear(width, width)
        self.mlp_in = nn.Linear(width, hidden)
        self.mlp_out = nn.Linear(hidden, width)
        # Gates start at 0 by the shared projection's zero initialisation; the table starts there too but for the
        # texture gate, whose output projection is zero instead, or neither of the two would ever get a gradient.
        self.table = nn.Parameter(torch.zeros(7, width))
        if texture_width is not None:
            nn.init.ones_(self.table[6])
            nn.init.zeros_(self.texture_out.weight)
            nn.init.zeros_(self.texture_out.bias)

    def key_value(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Texture tokens (n,k,width) -> keys and values (n,heads,k,head width)."""
        key, value = rearrange(self.texture_key_value(tokens), "n k (two h e) -> two n h k e", two=2, h=self.heads)
        return key, value

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        texture: tuple[Tensor, Tensor] | Tensor | None,
        prompted: Tensor | None = None,
    ) -> Tensor:
        """x (n,tokens,width), modulation (n,7,width); texture: keys and values, or the tokens (n,k,width) that they are
        made of; prompted (n,): patches that read it, None: all."""
        m = (modulation + self.table).to(x.dtype).unsqueeze(2).unbind(1)
        y = _normalise(x) * (1 + m[1]) + m[0]
        q, k, v = rearrange(self.qkv(y), "n t (three h e) -> three n h t e", three=3, h=self.heads)
        y = rearrange(F.scaled_dot_product_attention(q, k, v), "n h t e -> n t (h e)")
        x = x + m[2] * self.attention_out(y)
        if texture is not None:
            key, value = self.key_value(texture) if isinstance(texture, Tensor) else texture
            q = rearrange(self.texture_query(_normalise(x)), "n t (h e) -> n h t e", h=self.heads)
            y = F.scaled_dot_product_attention(q, key.to(q.dtype), value.to(q.dtype))
            read = m[6] * self.texture_out(rearrange(y, "n h t e -> n t (h e)"))
            x = x + (read if prompted is None else prompted.to(x.dtype)[:, None, None] * read)
        y = _normalise(x) * (1 + m[4]) + m[3]
        return x + m[5] * self.mlp_out(F.gelu(self.mlp_in(y), approximate="tanh"))


class PatchDiT(ModelMixin, ConfigMixin):
    """Denoiser f(x_t, t | y0, texture) of one latent patch.

    parameter           | meaning
    --------------------|---------------------------------------------------------------------------------
    latent_channels     | c
    sample_size         | V, patch side in latents
    patch_size          | side of a token in latents
    width, depth, heads | of the transformer; width a multiple of 4 and of heads
    texture_width       | channels of the prompt's tokens
    prediction_type     | "sample" (x0, the paper's), "epsilon" or "v_prediction"
    prompt_limit        | patches of a larger mean log error read no prompt; None: all do
    prompt              | who makes the tokens: "texture" (the paper's), "text" (`text_prompt.py`), "none": no one, and
                        | there is no cross-attention
    captioner           | hub id or folder of a BLIP-2, and
    text_encoder        | of a CLIP: of prompt "text"

    Choice: no prompt where the restorer is least sure. Textures are looked up by the coarse patch, and where that was
    guessed they fit the guess (docs/lab/texture.md).

    Choice: y0 and its expected error are concatenated to x_t, since at t = 999 nothing of y0 is left in the noise; with
    "sample" the network's output is added to y0, so that an untrained network returns the coarse patch.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 32,
        sample_size: int = 16,
        patch_size: int = 2,
        width: int = 256,
        depth: int = 8,
        heads: int = 4,
        mlp_ratio: float = 4.0,
        texture_width: int = 256,
        prediction_type: str = "sample",
        prompt_limit: float | None = None,
        prompt: str = "texture",
        captioner: str = CAPTIONER,
        text_encoder: str = TEXT_ENCODER,
    ) -> None:
        super().__init__()
        if width % 4 or width % heads:
            raise ConfigError(f"width {width} must be a multiple of 4 and of heads {heads}")
        if sample_size % patch_size:
            raise ConfigError(f"sample_size {sample_size} must be a multiple of patch_size {patch_size}")
        if prediction_type not in ("sample", "epsilon", "v_prediction"):
            raise ConfigError(f'prediction_type "{prediction_type}": choose sample, epsilon or v_prediction')
        if prompt not in PROMPTS:
            raise ConfigError(f'prompt "{prompt}": choose {", ".join(PROMPTS)}')
        self.gradient_checkpointing = False
        self.patch = patch_size
        self.side = sample_size // patch_size
        self.adds_coarse = prediction_type == "sample"
        self.entry = nn.Linear((2 * latent_channels + 1) * patch_size**2, width)
        self.register_buffer("positions", _sincos_positions(self.side, width), persistent=False)
        self.time_in = nn.Linear(_TIME_FEATURES, width)
        self.time_out = nn.Linear(width, width)
        self.modulation = nn.Linear(width, 7 * width)
        read = None if prompt == "none" else texture_width
        self.layers = nn.ModuleList(Block(width, heads, int(width * mlp_ratio), read) for _ in range(depth))
        self.exit_table = nn.Parameter(torch.zeros(2, width))
        self.exit = nn.Linear(width, latent_channels * patch_size**2)
        for layer in (self.modulation, self.exit):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @apply_forward_hook
    def texture_cache(self, tokens: Float[Tensor, "n k d"]) -> TextureCache:
        """Keys and values of a prompt's tokens for all blocks; valid for every time step."""
        tokens = tokens.to(self.dtype)
        pairs = [layer.key_value(tokens) for layer in self.layers]  # type: ignore[operator]
        return TextureCache(torch.stack([k for k, _ in pairs], dim=1), torch.stack([v for _, v in pairs], dim=1))

    def forward(
        self,
        x_t: Float[Tensor, "n c V V"],
        t: Int[Tensor, " n"],
        coarse: Float[Tensor, "n c V V"],
        log_error: Float[Tensor, "n 1 V V"],
        texture: TextureCache | Float[Tensor, "n k d"] | None = None,
    ) -> Float[Tensor, "n c V V"]:
        """Noisy patch at steps t in 0..999 -> prediction (n,c,V,V) float32.

        texture  `texture_cache` of the prompt's tokens; or the tokens, of which each block makes its keys and values at
                 every step; None: no prompt
        """
        x = self.embed(x_t, coarse, log_error)
        time, modulation = self.modulate(t)
        prompted = None if texture is None else self.prompted(log_error)
        own: tuple[Tensor, Tensor] | Tensor | None = texture.to(self.dtype) if isinstance(texture, Tensor) else None
        for number, layer in enumerate(self.layers):
            if isinstance(texture, TextureCache):
                own = texture.keys[:, number], texture.values[:, number]
            if self.gradient_checkpointing and self.training:
                x = checkpoint(layer, x, modulation, own, prompted, use_reentrant=False)
            else:
                x = layer(x, modulation, own, prompted)
        shift, scale = (self.exit_table + time.unsqueeze(1)).to(x.dtype).unsqueeze(2).unbind(1)
        return self.leave(self.exit(_normalise(x) * (1 + scale) + shift), coarse)

    def prompted(self, log_error: Float[Tensor, "n 1 V V"]) -> Tensor | None:
        """Which patches read the prompt, (n,) bool; None: all."""
        limit = self.config["prompt_limit"]
        return None if limit is None else log_error.float().mean(dim=(1, 2, 3)) <= limit

    @apply_forward_hook
    def embed(self, x_t: Tensor, coarse: Tensor, log_error: Tensor) -> Tensor:
        """Patches as `forward` takes them -> tokens (n,tokens,width)."""
        dtype = self.dtype
        pixels = torch.cat([x_t.to(dtype), coarse.to(dtype), log_error.to(dtype)], dim=1)
        tokens = rearrange(pixels, "n c (h p) (w q) -> n (h w) (c p q)", p=self.patch, q=self.patch)
        return self.entry(tokens) + self.positions.to(dtype)

    def modulate(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Steps (n,) -> time embedding (n,width) and the shared modulation (n,7,width)."""
        time = self.time_out(F.silu(self.time_in(_time_features(t).to(self.dtype))))
        return time, rearrange(self.modulation(F.silu(time)), "n (seven d) -> n seven d", seven=7)

    def leave(self, out: Tensor, coarse: Tensor) -> Tensor:
        """Tokens (n,tokens,c * patch_size^2) -> prediction (n,c,V,V) float32."""
        out = rearrange(out, "n (h w) (c p q) -> n c (h p) (w q)", h=self.side, p=self.patch, q=self.patch).float()
        return coarse.float() + out if self.adds_coarse else out
