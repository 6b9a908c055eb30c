"""The `paper` preset's Global Restoration Module: SwinIR-like, from LR latents, without upsampling (paper, Eq. 1).

Architecture after SwinIR (arXiv 2108.10257): groups of Swin blocks (arXiv 2103.14030), each group closed by a
convolution and added to its input. Channels come last between the convolutions: (n,h,w,width).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from patchscaler.errors import ConfigError
from patchscaler.models.base import ConfigMixin, ModelMixin, register_to_config
from patchscaler.models.restorer import Restoration, soft_log_error


class Windows(NamedTuple):
    """How a latent is cut into windows: shift (rows, columns), and which tokens of a window may see each other.

    visible: (windows,t,t) bool, t tokens a window; None: all.
    """

    shift: tuple[int, int]
    visible: Tensor | None


def shifted_windows(height: int, width: int, window: int, device: torch.device) -> Windows:
    """Windows moved by half a window; sides are multiples of `window`.

    The latent is rolled, so the last row and column of windows hold both of its borders: those tokens must not see each
    other. Choice: along a side of one window nothing is shifted, since it would only cut that window in two.
    """
    shift = tuple(window // 2 if side > window else 0 for side in (height, width))
    rows = torch.arange(height, device=device) >= height - shift[0]
    cols = torch.arange(width, device=device) >= width - shift[1]
    region = 2 * rows[:, None].long() + cols.long()
    region = rearrange(region, "(r p) (c q) -> (r c) (p q)", p=window, q=window)
    return Windows((shift[0], shift[1]), region[:, :, None] == region[:, None, :])


def relative_places(window: int) -> Tensor:
    """(t,t) index of token j's place relative to token i among the (2 window - 1)^2 possible ones."""
    axis = torch.arange(window)
    offset = axis[None] - axis[:, None] + window - 1
    rows, cols = offset[:, None, :, None], offset[None, :, None, :]
    return rearrange(rows * (2 * window - 1) + cols, "i k j l -> (i k) (j l)")


class SwinBlock(nn.Module):
    """Self-attention within windows, with a learned bias per head and relative place, then an MLP."""

    def __init__(self, width: int, heads: int, window: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.place_bias = nn.Parameter(torch.zeros(heads, (2 * window - 1) ** 2))
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, hidden)
        self.mlp_out = nn.Linear(hidden, width)
        nn.init.normal_(self.place_bias, std=0.02)
        for layer in (self.qkv, self.attention_out, self.mlp_in, self.mlp_out):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def attend(self, x: Tensor, places: Tensor, windows: Windows) -> Tensor:
        """x (n,h,w,width), places (t,t) from `relative_places`."""
        n, height, _, _ = x.shape
        down, right = windows.shift
        x = torch.roll(x, (-down, -right), dims=(1, 2))
        q, k, v = rearrange(
            self.qkv(x), "n (r p) (c q) (three m e) -> three (n r c) m (p q) e",
            three=3, m=self.heads, p=self.window, q=self.window,
        )  # fmt: skip
        bias = self.place_bias.to(q.dtype)[:, places].unsqueeze(0)
        if windows.visible is not None:
            hidden = ~windows.visible.unsqueeze(1)
            bias = bias.masked_fill(hidden, -torch.inf).repeat(n, 1, 1, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        y = rearrange(
            y, "(n r c) m (p q) e -> n (r p) (c q) (m e)", n=n, r=height // self.window, p=self.window, q=self.window
        )
        return torch.roll(self.attention_out(y), (down, right), dims=(1, 2))

    def forward(self, x: Tensor, places: Tensor, windows: Windows) -> Tensor:
        x = x + self.attend(self.attention_norm(x), places, windows)
        return x + self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x))))


class SwinGroup(nn.Module):
    """Blocks whose windows are shifted in every second one, then a convolution, added to the input."""

    def __init__(self, width: int, blocks: int, heads: int, window: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(SwinBlock(width, heads, window, hidden) for _ in range(blocks))
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, places: Tensor, shifted: Windows, recompute: bool) -> Tensor:
        """x (n,h,w,width); shifted: the windows of every second block; recompute: checkpoint the blocks."""
        straight = Windows((0, 0), None)
        y = x
        for number, layer in enumerate(self.layers):
            windows = shifted if number % 2 else straight
            y = checkpoint(layer, y, places, windows, use_reentrant=False) if recompute else layer(y, places, windows)
        return x + rearrange(self.conv(rearrange(y, "n h w c -> n c h w")), "n c h w -> n h w c")


class SwinRestorer(ModelMixin, ConfigMixin):
    """Coarse HR latents and their expected error from the latents of the bicubic-enlarged LR picture.

    parameter       | meaning
    ----------------|----------------------------------------------------------------------
    latent_channels | c of the autoencoder
    width, heads    | of the transformer; width a multiple of heads
    groups, blocks  | residual groups, and Swin blocks in each
    window          | side of a window in latents, even
    mlp_ratio       | hidden channels of an MLP / width
    eta             | difficulty scale of the confidence map, in squared latent units

    Untrained it returns its input. Raises ConfigError for settings that don't fit together.
    """

    input_kind = "latents"
    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 4,
        width: int = 180,
        groups: int = 8,
        blocks: int = 6,
        heads: int = 6,
        window: int = 8,
        mlp_ratio: float = 2.0,
        eta: float = 0.1,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"width {width} must be a multiple of heads {heads}")
        if window < 2 or window % 2:
            raise ConfigError(f"window {window} must be even and at least 2: every second block shifts it by half")
        if eta <= 0:
            raise ConfigError(f"eta must be positive, not {eta}")
        self.gradient_checkpointing = False
        self.entry = nn.Conv2d(latent_channels, width, 3, padding=1)
        self.body = nn.ModuleList(
            SwinGroup(width, blocks, heads, window, int(width * mlp_ratio)) for _ in range(groups)
        )
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.exit = nn.Conv2d(width, latent_channels + 1, 3, padding=1)
        self.register_buffer("places", relative_places(window), persistent=False)
        nn.init.zeros_(self.exit.weight)
        nn.init.zeros_(self.exit.bias)  # type: ignore[arg-type]

    @property
    def eta(self) -> float:
        return float(self.config["eta"])

    def forward(self, latents: Float[Tensor, "n c h w"]) -> Restoration:
        """Normalised latents, h and w from 1 up (ValueError) -> Restoration of the same size, float32."""
        height, width = latents.shape[-2:]
        if not (height and width):
            raise ValueError(f"latents of size {(height, width)} are empty")
        # Choice: the border is repeated, not mirrored: mirroring fails for sides below a window.
        window = int(self.config["window"])
        padded = F.pad(latents, (0, -width % window, 0, -height % window), mode="replicate")
        features = self.entry(padded.to(self.dtype))
        x = rearrange(features, "n c h w -> n h w c")
        shifted = shifted_windows(x.shape[1], x.shape[2], window, x.device)
        for group in self.body:
            x = group(x, self.places, shifted, self.gradient_checkpointing and self.training)
        x = rearrange(self.norm(x), "n h w c -> n c h w")
        out = self.exit(self.conv(x) + features)[..., :height, :width].float()
        return Restoration(latents.float() + out[:, :-1], soft_log_error(out[:, -1:]))
