"""The `tiny` autoencoder: a truncated block DCT as encoder, a small convolutional decoder that starts as its inverse.

Why not a learned encoder: keeping 24 luma and 4 + 4 chroma coefficients of every 8x8 block reconstructs textured photos
at 33.3 dB PSNR-Y and LPIPS 0.075 before a single step of training (docs/lab/autoencoder.md), costs one matrix product,
and never changes. So everything trained on latents (GRM, Patch-DiT, texture memory) stays valid whenever the decoder is
trained further.
"""

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from patchscaler.errors import ConfigError
from patchscaler.imaging.dct import BlockDct, dct_bases
from patchscaler.imaging.geometry import STRIDE
from patchscaler.models.base import ConfigMixin, ModelMixin, register_to_config


@functools.lru_cache
@torch.inference_mode(False)  # the cached tensors must also serve a training that follows
def _bases_on(luma: int, chroma: int, device: torch.device) -> tuple[Tensor, Tensor]:
    analysis, synthesis = dct_bases(luma, chroma, STRIDE)
    return torch.from_numpy(analysis).to(device), torch.from_numpy(synthesis).to(device)


class ResidualBlock(nn.Module):
    """conv - leaky ReLU - conv, added to its input; no normalisation, so that tiles agree exactly. Starts as identity.

    Leaky ReLU rather than SiLU: SiLU is almost linear for inputs as small as a pixel's contrast.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate")
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate")
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return x + self.conv2(F.leaky_relu(self.conv1(x), 0.1))
        return self.conv2(F.leaky_relu_(self.conv1(x), 0.1)).add_(x)  # two large buffers fewer


class DctAutoencoder(ModelMixin, ConfigMixin):
    """Pixels <-> latents at stride 8.

    parameter      | meaning
    ---------------|------------------------------------------------------------------
    luma, chroma   | kept coefficients of Y and of each of Cb, Cr; c = luma + 2 chroma
    width, blocks  | channels and residual blocks of the decoder at 1/8 of the picture's side
    fine_width, .. | the same at 1/4
    latents_mean/_std | c values each: the coefficients' statistics over the training pictures

    Latents are normalised per channel, so they have about zero mean and unit variance. The statistics live in the
    config and the bases are computed from it, so neither is rounded when the decoder's weights become bfloat16. Raises
    ConfigError for counts outside 1..64 or statistics of another length than c.
    """

    @register_to_config
    def __init__(
        self,
        luma: int = 24,
        chroma: int = 4,
        width: int = 128,
        blocks: int = 3,
        fine_width: int = 64,
        fine_blocks: int = 4,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
    ) -> None:
        super().__init__()
        if not (1 <= luma <= STRIDE**2 and 1 <= chroma <= STRIDE**2):
            raise ConfigError(f"luma {luma} and chroma {chroma} must lie in 1..{STRIDE**2}")
        self.latent_channels = luma + 2 * chroma
        for name, values in (("latents_mean", latents_mean), ("latents_std", latents_std)):
            if values is not None and len(values) != self.latent_channels:
                raise ConfigError(f"{name} has {len(values)} values for {self.latent_channels} latent channels")
        self.entry = nn.Conv2d(self.latent_channels, width, 3, padding=1, padding_mode="replicate")
        self.coarse = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.rise = nn.Conv2d(width, 4 * fine_width, 3, padding=1, padding_mode="replicate")
        self.fine = nn.Sequential(*(ResidualBlock(fine_width) for _ in range(fine_blocks)))
        self.exit = nn.Conv2d(fine_width, 3 * 16, 3, padding=1, padding_mode="replicate")
        nn.init.zeros_(self.exit.weight)
        nn.init.zeros_(self.exit.bias)  # type: ignore[arg-type]

    @property
    def reach(self) -> int:
        """Latents on each side that a decoded latent depends on: the halo that makes tiled decoding exact."""
        config: Any = self.config
        fine = 2 * config.fine_blocks + 1  # 3x3 convolutions at two positions per latent
        return 2 + 2 * config.blocks + math.ceil(fine / 2)

    def bases(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Analysis and synthesis kernels (c,3,8,8)."""
        return _bases_on(self.config["luma"], self.config["chroma"], device)

    @property
    def dct(self) -> BlockDct:
        """What makes small pictures of latents without a network."""
        mean, std = (part.flatten().tolist() for part in self._statistics(torch.device("cpu")))
        return BlockDct(self.config["luma"], self.config["chroma"], tuple(mean), tuple(std))

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each coefficient, (c,1,1) float32."""
        mean, std = self.config["latents_mean"], self.config["latents_std"]
        c = self.latent_channels
        return (
            torch.tensor(mean or [0.0] * c, dtype=torch.float32, device=device)[:, None, None],
            torch.tensor(std or [1.0] * c, dtype=torch.float32, device=device)[:, None, None],
        )

    def encode(self, pixels: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n c h w"]:
        """RGB in [0,1], sides multiples of 8 -> normalised latents at h = height/8, float32."""
        if pixels.shape[-2] % STRIDE or pixels.shape[-1] % STRIDE:
            raise ValueError(f"sides {tuple(pixels.shape[-2:])} must be multiples of {STRIDE}")
        analysis, _ = self.bases(pixels.device)
        mean, std = self._statistics(pixels.device)
        with torch.autocast(pixels.device.type, enabled=False):
            return (F.conv2d(pixels.float(), analysis, stride=STRIDE) - mean) / std

    def inverse_dct(self, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 height width"]:
        """The linear part of the decoder alone, float32: what the kept coefficients say, with nothing added."""
        _, synthesis = self.bases(latents.device)
        mean, std = self._statistics(latents.device)
        with torch.autocast(latents.device.type, enabled=False):
            return F.conv_transpose2d(latents.float() * std + mean, synthesis, stride=STRIDE)

    def decode(self, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 height width"]:
        """Normalised latents -> RGB about [0,1] (not clamped), height = 8 h, float32."""
        rgb: Tensor = self(latents)  # as a call, so that hooks bring offloaded weights
        return rgb

    def forward(self, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 height width"]:
        """`decode`: the half that has weights."""
        return self.inverse_dct(latents) + self.detail(latents)

    def detail(self, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 height width"]:
        """What `inverse_dct` lacks, float32."""
        x = self.entry(latents.to(self.dtype))
        x = F.pixel_shuffle(self.rise(self.coarse(x)), 2)
        return F.pixel_shuffle(self.exit(self.fine(x)), 4).float()
