"""Global Restoration Module (GRM), convolutional, from LR pixels: coarse HR latents and their expected error, Eq. 1."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, overload

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from patchscaler.errors import ConfigError
from patchscaler.models.autoencoder import ResidualBlock
from patchscaler.models.base import ConfigMixin, ModelMixin, register_to_config

# log e is kept in this range: a patch that looked easy and is not would otherwise give exp(-s) any gradient at all. The
# lower end, e = 0.007, is far below any eta; the range is soft there, so that the gradient never dies.
LOG_ERROR_RANGE = (-5.0, 4.0)


def soft_log_error(raw: Tensor) -> Tensor:
    """Network output -> log error within LOG_ERROR_RANGE, smooth at the lower end."""
    low, high = LOG_ERROR_RANGE
    return (low + F.softplus(raw.float() - low)).clamp(max=high)


class Restoration(NamedTuple):
    """latents: coarse HR latents y0 (n,c,h,w).

    log_error (n,1,h,w): ln e of their expected squared error (mean of c) as Eq. 1 teaches it; after
    training/confidence.py a stretched ln of the LPIPS that is to be expected there.
    """

    latents: Tensor
    log_error: Tensor


def confidence_from(log_error: Float[Tensor, "n 1 h w"], eta: float) -> Float[Tensor, "n 1 h w"]:
    """C = min(1, eta / e) in (0,1]: the optimum of Eq. 1 for an expected squared error e = exp(log_error).

    Choice: the network predicts ln e rather than C, so eta can be calibrated on validation pictures after training.
    """
    return (math.log(eta) - log_error.float()).clamp(max=0.0).exp()


def restoration_loss(
    restored: Restoration, target: Float[Tensor, "n c h w"], eta: float, uncertainty_weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Eq. 1: |y - x|_1 + lambda (C |y - x|^2 - eta log C), lambda = uncertainty_weight; squares: mean over channels.

    With C = eta exp(-s) the bracket is eta (exp(-s) e + s) up to a constant, whose optimum for s is ln e, the error
    itself, also where C would pass 1. Choice: s learns from that form, the latents from C |y - x|^2 with C capped at 1
    as it is read later (confidence_from): uncapped, the easy places would take all the gradient.
    """
    difference = restored.latents.float() - target
    absolute = difference.abs().mean()
    squared = difference.square().mean(dim=1, keepdim=True)
    s = restored.log_error.float()
    weighted = (confidence_from(s.detach(), eta) * squared).mean()
    uncertainty = (torch.exp(-s) * squared.detach() + s).mean()
    return absolute + uncertainty_weight * (weighted + eta * uncertainty), {
        "l1": absolute.detach(),
        "mse": squared.mean().detach(),
        "uncertainty": uncertainty.detach(),
    }


class PlainBlock(nn.Sequential):
    """PReLU - conv."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.PReLU(width), nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate"))


class ExactConv2d(nn.Conv2d):
    """In float32, whatever the precision of its weights: bfloat16 would cost colours their precision."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self._conv_forward(x.float(), self.weight.float(), None if self.bias is None else self.bias.float())


class ConvRestorer(ModelMixin, ConfigMixin):
    """The `tiny` GRM: residual blocks on the LR pixels, then PixelUnshuffle(2) onto the latent grid (output stride 8).

    parameter       | meaning
    ----------------|-----------------------------------------------------------------------------
    latent_channels | c of the autoencoder
    width, blocks   | channels and blocks; each residual block sees 2 LR pixels (8 output px) further, a plain one 1
    block           | "residual", or "plain": convolution and PReLU without a way around, as in Real-ESRGAN's compact
                    | networks, so that their published weights can be a starting point (training/published.py)
    eta             | difficulty scale of the confidence map, in squared normalised latent units

    Choice: blocks at LR resolution. Blocks of twice the width on the latent grid cost the same arithmetic and need two
    to three times the steps (docs/lab/restorer.md). Without normalisation layers an output latent depends on `reach`
    latents around it and on nothing else.
    """

    input_kind = "pixels"

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 32,
        width: int = 64,
        blocks: int = 16,
        eta: float = 0.1,
        block: str = "residual",
    ) -> None:
        super().__init__()
        if eta <= 0:
            raise ConfigError(f"eta must be positive, not {eta}")
        if block not in ("residual", "plain"):
            raise ConfigError(f'block "{block}": choose residual or plain')
        # A linear path that can hold bicubic interpolation exactly: x4 bicubic of a 2x2 LR cell needs 6x6 LR pixels.
        self.skip = ExactConv2d(12, latent_channels, 3)
        self.entry = nn.Conv2d(3, width, 3, padding=1, padding_mode="replicate")
        self.residual = block == "residual"
        self.body = nn.Sequential(
            *(ResidualBlock(width) if self.residual else PlainBlock(width) for _ in range(blocks)),
            *(() if self.residual else (nn.PReLU(width),)),
        )
        self.exit = nn.Conv2d(4 * width, latent_channels + 1, 3)
        nn.init.zeros_(self.exit.weight)
        nn.init.zeros_(self.exit.bias)  # type: ignore[arg-type]

    @property
    def eta(self) -> float:
        return float(self.config["eta"])

    @property
    def reach(self) -> int:
        """Latents on each side that an output latent depends on."""
        pixels = int(self.config["blocks"]) * (2 if self.residual else 1) + 1
        return math.ceil(pixels / 2) + 1

    @overload
    def forward(self, pixels: Tensor) -> Restoration: ...
    @overload
    def forward(self, pixels: Tensor, with_features: Literal[True]) -> tuple[Restoration, Tensor]: ...
    def forward(
        self, pixels: Float[Tensor, "n 3 height width"], with_features: bool = False
    ) -> Restoration | tuple[Restoration, Tensor]:
        """LR RGB in [0,1], even sides -> Restoration at h = height/2, float32; with_features: and `features`."""
        if pixels.shape[-2] % 2 or pixels.shape[-1] % 2:
            raise ValueError(f"sides {tuple(pixels.shape[-2:])} must be even")
        features = self.features(pixels)
        restored = self.leave(features, pixels)
        return (restored, features) if with_features else restored

    def features(self, pixels: Float[Tensor, "n 3 height width"]) -> Tensor:
        """What the last layer reads of LR RGB, (n, 4 width, h + 2, w + 2)."""
        x = self.entry((pixels - 0.5).to(self.dtype))
        return _cells(self.body(x) + x if self.residual else self.body(x))

    def leave(self, features: Tensor, pixels: Float[Tensor, "n 3 height width"]) -> Restoration:
        """Restoration from the `features` of these pixels."""
        base = self.skip(_cells(pixels.float() - 0.5))
        out = self.exit(features).float()
        return Restoration(base + out[:, :-1], soft_log_error(out[:, -1:]))


def _cells(x: Tensor) -> Tensor:
    """(n,c,H,W) -> (n,4c,H/2+2,W/2+2): 2x2 cells, with one more around that repeats the border's pixels."""
    return F.pixel_unshuffle(F.pad(x, (2, 2, 2, 2), mode="replicate"), 2)


def cell_kernel(affine: Callable[[Tensor], Tensor], channels: int) -> tuple[Tensor, Tensor]:
    """Weight (c, 4 channels, 3, 3) and bias (c,) of the convolution on PixelUnshuffle(2) cells that equals `affine`, by
    probing impulses.

    affine: an affine map (n,channels,H,W) at LR resolution -> (n,c,H/2,W/2) that sees one cell further on each side
    """
    side, middle = 18, 4  # LR pixels; the probed 2x2 cell sits at cell (4,4), far enough from the border
    bias = affine(torch.zeros(1, channels, side, side))[0, :, middle, middle]
    probes = torch.zeros(4 * channels, channels, side, side)
    for channel in range(channels):
        for row in range(2):
            for column in range(2):
                probes[channel * 4 + row * 2 + column, channel, 2 * middle + row, 2 * middle + column] = 1.0
    around = slice(middle - 1, middle + 2)
    response = affine(probes)[:, :, around, around] - bias[None, :, None, None]
    # The response at (middle - dy) is the kernel's value at +dy: correlation flips the axes.
    return response.flip(2, 3).transpose(0, 1).contiguous(), bias


def enlarged_skip(encode: Callable[[Tensor], Tensor], mode: str) -> tuple[Tensor, Tensor]:
    """Weight (c,12,3,3) and bias (c,) with which ConvRestorer.skip equals encode(pixels enlarged x4).

    encode: an affine map (n,3,H,W) -> (n,c,H/8,W/8), H and W multiples of 8; mode: "bicubic" or "nearest"
    """
    options: dict[str, Any] = {"mode": mode} | ({"antialias": True} if mode == "bicubic" else {})
    return cell_kernel(lambda centred: encode(F.interpolate(centred + 0.5, scale_factor=4, **options)), 3)
