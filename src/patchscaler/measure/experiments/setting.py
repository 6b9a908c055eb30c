"""What an experiment runs on: model, pictures, seed, device."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from patchscaler.data.pairs import CONDITIONS
from patchscaler.errors import ConfigError
from patchscaler.measure.peers import Peer


def shown(text: str) -> str:
    """One of Setting's `sets`, of folders their names alone."""
    key, sign, values = text.partition("=")
    return key + sign + ",".join(Path(value).name for value in values.split(",")) if key == "model" else text


@dataclass(frozen=True)
class Setting:
    """One experiment's setting.

    data        folder of sharp pictures, a test set with low- and high-resolution ones (data/testsets.py), or pictures
                without a ground truth, see `sets.look`; no_reference: take them for the latter
    model       name or folder
    pictures    how many, spread evenly over the folder; 0: all
    side        of the crop from each picture's middle in pixels, a multiple of 16; 0: whole pictures
    conditions  that take turns in making sharp pictures small, see CONDITIONS
    metrics     as for `patchscaler evaluate`; those that judge claims are always measured: lpips_alex, or without a
                ground truth the first of pyiqa's that can be had, else niqe
    features    folder of convolutions, see `load_convolutions`
    dtype       "auto" or a torch dtype's name
    threads     of the processor; 0: torch's choice
    peers       other upscalers ("quality" alone)
    sets        "KEY=V1,V2" each ("ablation"; "prompt", whose only key is "model")
    backbone, backbone_style  hub id or folder of a diffusers pipeline, its style, see `load_backbone` ("plug-in" alone)

    Raises ConfigError for what is out of range.
    """

    data: Path
    model: str = "tiny"
    pictures: int = 0
    side: int = 256
    conditions: tuple[str, ...] = ("bicubic", "camera", "mild", "real_esrgan")
    metrics: str = "default"
    features: Path | None = None
    seed: int = 0
    device: str = "cpu"
    dtype: str = "auto"
    threads: int = 0
    batch_size: int = 32
    peers: tuple[Peer, ...] = ()
    sets: tuple[str, ...] = ()
    no_reference: bool = False
    backbone: str | None = None
    backbone_style: str | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.conditions) - set(CONDITIONS))
        if unknown or not self.conditions:
            raise ConfigError(f'conditions: "{"".join(unknown[:1])}" is unknown; choose from {", ".join(CONDITIONS)}')
        if self.side % 16 or self.side < 0:
            raise ConfigError(f"side {self.side} must be a multiple of 16, or 0 for whole pictures")

    def as_dict(self) -> dict[str, Any]:
        """Plain values; of the folders their names alone, since where they lie is nobody's business."""
        values = asdict(self)
        values |= {"data": self.data.name, "features": self.features and self.features.name}
        values["model"] = Path(self.model).name
        values["sets"] = [shown(text) for text in self.sets]
        values["peers"] = {peer.name: peer.short for peer in self.peers}
        if self.backbone is not None and Path(self.backbone).is_dir():
            values["backbone"] = Path(self.backbone).resolve().name
        return values
