"""Whether the GRM asks its second restorer, and what it makes of two answers.

One small restorer can't tell noise from texture, a large one costs ten times as much. So a gate, which sees what the
first restorer sees, tells how much lower the LPIPS would be with both; if that is worth the time, the second one is
asked for the picture and a small network weighs the two, place by place and channel by channel:

    y0 = y_1 + w (y_2 - y_1) + d

That is PGS's own idea, spending where it pays, one stage earlier.
"""

import math
from typing import overload

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from patchscaler.errors import ConfigError
from patchscaler.models.autoencoder import ResidualBlock
from patchscaler.models.base import ConfigMixin, ModelMixin, register_to_config
from patchscaler.models.restorer import Restoration
from patchscaler.models.rrdb import SecondOpinion
from patchscaler.pgs.gate import Gate

FIRST_SHARE = 0.4  # of the second restorer, before training
GATE_WIDTH = 32  # channels between the two layers of the gate


class Fusion(ModelMixin, ConfigMixin):
    """Two restorers' answers -> coarse latents and their log error; and the gate that decides who is asked.

    parameter        | meaning
    -----------------|--------------------------------------------------------------------------
    latent_channels  | c of the autoencoder
    first_, second_width | channels of the restorers' features at LR resolution
    width, blocks    | channels and residual blocks, on the latent grid
    gate_limit       | expected gain in LPIPS from which on a place wants the second restorer
    gate_reach       | latents around a place whose mean gain decides
    gate_share       | share of the places expected to gain from which on it is asked, for the whole picture

    An output latent depends on `reach` latents around it and on nothing else. What it reads differs much in size from
    channel to channel; `standardise` measures that once, before training.
    """

    mean: Tensor
    std: Tensor

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 32,
        first_width: int = 64,
        second_width: int = 64,
        width: int = 128,
        blocks: int = 6,
        gate_limit: float = 0.01,
        gate_reach: int = 4,
        gate_share: float = 0.5,
    ) -> None:
        super().__init__()
        if gate_limit <= 0 or gate_reach < 0 or not 0 <= gate_share < 1:
            raise ConfigError(
                f"gate_limit {gate_limit} must be positive, gate_reach {gate_reach} not negative, "
                f"gate_share {gate_share} in [0,1)"
            )
        read = 4 * first_width + 4 * second_width + 2 * latent_channels + 1
        self.register_buffer("mean", torch.zeros(1, read, 1, 1))
        self.register_buffer("std", torch.ones(1, read, 1, 1))
        self.entry = nn.Conv2d(read, width, 1)  # the restorers have looked around already
        self.body = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.exit = nn.Conv2d(width, 2 * latent_channels + 1, 3, padding=1, padding_mode="replicate")
        nn.init.zeros_(self.exit.weight)
        bias = torch.zeros(2 * latent_channels + 1)
        bias[:latent_channels] = math.log(FIRST_SHARE / (1 - FIRST_SHARE))
        self.exit.bias = nn.Parameter(bias)
        self.gate_entry = nn.Conv2d(4 * first_width, GATE_WIDTH, 3)
        self.gate_exit = nn.Conv2d(GATE_WIDTH, 1, 1)

    @property
    def reach(self) -> int:
        """Latents on each side that an output latent depends on."""
        return 2 * int(self.config["blocks"]) + 1

    @overload
    def forward(self, first_features: Tensor) -> Tensor: ...
    @overload
    def forward(
        self, first_features: Tensor, first: Restoration, second: SecondOpinion, lean: float | Tensor = 0.0
    ) -> Restoration: ...
    def forward(
        self,
        first_features: Float[Tensor, "n f H W"],
        first: Restoration | None = None,
        second: SecondOpinion | None = None,
        lean: float | Tensor = 0.0,
    ) -> Restoration | Tensor:
        """The fused Restoration, float32; with the features alone the gate's answer: how much lower the LPIPS is
        expected to be at each latent if the second restorer is asked, (n,1,h,w) float32.

        first_features  `ConvRestorer.features` of the same pixels
        lean            added to the logits of w: above 0 the second restorer counts for more, below for less

        One call for both, so that hooks bring offloaded weights.
        """
        if first is None or second is None:
            return self.gate_exit(F.leaky_relu(self.gate_entry(first_features), 0.1)).float()
        out = self.exit(self.features(first_features, first, second)).float()
        weight, correction, log_error = out.split([first.latents.shape[1]] * 2 + [1], dim=1)
        apart = second.latents - first.latents
        latents = first.latents + torch.sigmoid(weight + lean) * apart + correction
        return Restoration(latents, first.log_error + log_error)

    def features(self, first_features: Tensor, first: Restoration, second: SecondOpinion) -> Tensor:
        """What the last layer reads."""
        standardised = (self._read(first_features, first, second) - self.mean) / self.std
        return self.body(self.entry(standardised.to(self.entry.weight.dtype)))

    @torch.no_grad()
    def standardise(self, first_features: Tensor, first: Restoration, second: SecondOpinion) -> None:
        """Takes the inputs' means and spreads from these; without it they are read as they are."""
        read = self._read(first_features, first, second).float()
        self.mean.copy_(read.mean(dim=(0, 2, 3), keepdim=True))
        self.std.copy_(read.std(dim=(0, 2, 3), keepdim=True).clamp(min=1e-3))

    def _read(self, first_features: Tensor, first: Restoration, second: SecondOpinion) -> Tensor:
        parts = (
            first_features[..., 1:-1, 1:-1],
            F.pixel_unshuffle(second.features, 2),
            first.latents,
            second.latents,
            first.log_error,
        )
        return torch.cat([part.to(self.mean.dtype) for part in parts], dim=1)

    @property
    def gate(self) -> Gate:
        """What decides by the gain whether the second restorer is asked."""
        config = self.config
        return Gate(float(config["gate_limit"]), int(config["gate_reach"]), float(config["gate_share"]))

    def neighbourhood(self, gain: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
        """`Gate.neighbourhood`, with gradients: the mean up to `gate_reach` latents away, the border repeated."""
        side = int(self.config["gate_reach"])
        return F.avg_pool2d(F.pad(gain, (side,) * 4, mode="replicate"), 2 * side + 1, stride=1)
