"""The restorer and the decoder as one x4 network for spandrel, by which chaiNNer and other programs load upscalers.

`export` writes the file; whoever loads it calls `register` once. Groups, textures, Patch-DiT and the second restorer
are not in there: spandrel's contract is one pass of one network.
"""

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

from patchscaler.errors import ConfigError
from patchscaler.imaging.colour import COLOUR_LEVELS
from patchscaler.imaging.geometry import SCALE
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.models.loading import arguments_of
from patchscaler.models.model import Model
from patchscaler.models.restorer import ConvRestorer

CONFIG = "config"  # a tensor of JSON's bytes: spandrel hands over tensors alone


class CoarseUpscaler(nn.Module):
    """(n,3,h,w) RGB in [0,1] -> (n,3,4h,4w), as `patchscaler upscale --steps 0,0,0 --denoise 0` makes it."""

    def __init__(self, restorer: dict[str, Any], autoencoder: dict[str, Any]) -> None:
        super().__init__()
        self.restorer = ConvRestorer(**restorer)
        self.autoencoder = DctAutoencoder(**autoencoder)

    def forward(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h4 w4"]:
        height, width = pixels.shape[-2:]
        even = F.pad(pixels, (0, width % 2, 0, height % 2), mode="replicate")
        latents = self.restorer(even.float()).latents
        decoded = self.autoencoder.decode(latents)[..., : SCALE * height, : SCALE * width]
        size = (SCALE * height, SCALE * width)
        reference = F.interpolate(pixels.float(), size=size, mode="bicubic", antialias=True)
        return (decoded + _low_band(reference - decoded)).clamp(0, 1).to(pixels.dtype)


def _low_band(x: Tensor) -> Tensor:
    """What `imaging.colour.wavelet_colour_fix` calls so: [1 2 1]/4 along both axes, dilated by 1, 2, 4, ..."""
    channels = x.shape[1]
    kernel = torch.tensor([0.25, 0.5, 0.25], device=x.device).repeat(channels, 1, 1)
    for step in (2**level for level in range(COLOUR_LEVELS)):
        padded = F.pad(x, (step,) * 4, mode="replicate")
        rows = F.conv2d(padded, kernel[..., None], dilation=step, groups=channels)
        x = F.conv2d(rows, kernel[:, :, None], dilation=step, groups=channels)
    return x


def export(model: Model, path: Path) -> None:
    """One safetensors file of a model's restorer and decoder, half precision.

    Raises ConfigError for networks of another kind than the bundled model's.
    """
    networks = {"restorer": model.restorer, "autoencoder": model.autoencoder}
    if not isinstance(model.restorer, ConvRestorer) or not isinstance(model.autoencoder, DctAutoencoder):
        kinds = " and ".join(type(network).__name__ for network in networks.values())
        raise ConfigError(f"the model has {kinds}; only ConvRestorer and DctAutoencoder can be exported")
    public = {name: arguments_of(network.config) for name, network in networks.items()}
    tensors = {f"{name}.{key}": t for name, network in networks.items() for key, t in network.state_dict().items()}
    tensors = {key: tensor.half().contiguous() for key, tensor in tensors.items()}
    tensors[CONFIG] = torch.tensor(list(json.dumps(public).encode()), dtype=torch.uint8)
    save_file(tensors, path, metadata={"format": "pt", "architecture": "PatchScaler", "scale": str(SCALE)})


def register() -> None:
    """Teach spandrel such files, for `ModelLoader().load_from_file`."""
    from spandrel import MAIN_REGISTRY, Architecture, ArchSupport, ImageModelDescriptor
    from spandrel.util import KeyCondition

    class PatchScalerArch(Architecture[CoarseUpscaler]):
        def __init__(self) -> None:
            detect = KeyCondition.has_all(CONFIG, "restorer.skip.weight", "autoencoder.entry.weight")
            super().__init__(id="PatchScaler", detect=detect)

        def load(self, state_dict: Any) -> ImageModelDescriptor[CoarseUpscaler]:
            weights = dict(state_dict)
            model = CoarseUpscaler(**json.loads(bytes(weights.pop(CONFIG).tolist())))
            model.load_state_dict(weights)
            return ImageModelDescriptor(
                model,
                state_dict,
                architecture=self,
                purpose="SR",
                tags=["restorer"],
                supports_half=False,
                supports_bfloat16=True,
                scale=SCALE,
                input_channels=3,
                output_channels=3,
            )

    if "PatchScaler" not in (each.architecture.id for each in MAIN_REGISTRY):
        MAIN_REGISTRY.add(ArchSupport.from_architecture(PatchScalerArch()))
