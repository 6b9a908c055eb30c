"""Values read out of frozen features, place by place: what the training of the confidence learns."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from patchscaler.models.fusion import GATE_WIDTH
from patchscaler.models.restorer import soft_log_error


class Readout(nn.Module):
    """Frozen features, standardised, -> one value per place, by one convolution, or by two with `hidden` channels
    between them. `framed`: the features have one place more on each side, as `ConvRestorer.exit` reads them."""

    mean: Tensor
    std: Tensor

    def __init__(self, features: Tensor, framed: bool, start: float, hidden: int = 0) -> None:
        super().__init__()
        self.register_buffer("mean", features.mean(dim=(0, 2, 3), keepdim=True))
        self.register_buffer("std", features.std(dim=(0, 2, 3), keepdim=True) + 1e-3)
        border: dict[str, Any] = {} if framed else {"padding": 1, "padding_mode": "replicate"}
        self.convolution = nn.Conv2d(features.shape[1], hidden or 1, 3, **border)
        self.last = nn.Conv2d(hidden, 1, 1) if hidden else None
        last = self.last or self.convolution
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, start)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        x = self.convolution((features - self.mean) / self.std)
        return self.last(F.leaky_relu(x, 0.1)) if self.last else x

    def folded(self, scale: float = 1.0, offset: float = 0.0) -> tuple[Tensor, Tensor]:
        """Weight and bias of the first convolution for the features as they are, of scale * output + offset."""
        weight = scale * self.convolution.weight / self.std
        assert self.convolution.bias is not None
        return weight, scale * self.convolution.bias + offset - (weight * self.mean).sum(dim=(1, 2, 3))


class Readouts(nn.Module):
    """What is trained. first: log of the first restorer's expected LPIPS; fused: that of both, less the former; gain:
    by how much the latter LPIPS is lower."""

    def __init__(self, crops: dict[str, Tensor]) -> None:
        super().__init__()
        self.first = Readout(crops["features"], framed=True, start=-1.0)
        self.fused, self.gain = None, None
        if "fused_features" in crops:
            self.fused = Readout(crops["fused_features"], framed=False, start=0.0)
            self.gain = Readout(crops["features"], framed=True, start=0.0, hidden=GATE_WIDTH)

    def forward(self, crops: dict[str, Tensor]) -> dict[str, Tensor]:
        """Log errors "first" and "fused" (n,1,h,w), and the expected "gain"."""
        first = soft_log_error(self.first(crops["features"]))
        if self.fused is None or self.gain is None:
            return {"first": first}
        fused = first.detach() + self.fused(crops["fused_features"])
        return {"first": first, "fused": fused, "gain": self.gain(crops["features"])}
