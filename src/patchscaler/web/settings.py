"""What a server allows and offers: limits, qualities, formats."""

from dataclasses import dataclass
from enum import Enum

from patchscaler.errors import ConfigError
from patchscaler.inference.settings import QUALITIES

MIB = 2**20
LARGEST_SCALE = 4  # one pass of the model


class Quality(str, Enum):
    """Steps of simple, medium and hard patches: `STEPS`."""

    fast = "fast"
    balanced = "balanced"
    best = "best"


STEPS = {quality: QUALITIES[quality.value] for quality in Quality}


class Format(str, Enum):
    """Of the result; the value is the suffix of its file."""

    png = "png"
    jpg = "jpg"
    webp = "webp"
    tif = "tif"


MEDIA_TYPES = {
    Format.png: "image/png",
    Format.jpg: "image/jpeg",
    Format.webp: "image/webp",
    Format.tif: "image/tiff",
}
# The longest side in pixels that a format can hold.
LONGEST_SIDES = {Format.jpg: 65_535, Format.webp: 16_383}


@dataclass(frozen=True)
class Options:
    """Of one job: what the command line calls --steps (by quality), --seed, the suffix of -o, and --scale."""

    quality: Quality = Quality.balanced
    seed: int = 0
    format: Format = Format.png
    scale: float = LARGEST_SCALE


@dataclass(frozen=True)
class Limits:
    """Raises ConfigError unless all are positive.

    max_bytes       of an upload
    max_pixels      of a picture that comes in
    queue           jobs not finished: arriving, waiting and running
    job_seconds     the longest that a job may run
    upload_seconds  the longest that an upload may take
    keep_seconds    how long the result of a job is kept, unless it is deleted earlier
    keep_bytes      of all results together; the oldest go first
    """

    max_bytes: int = 32 * MIB
    max_pixels: int = 4_000_000
    queue: int = 64
    job_seconds: float = 1800.0
    upload_seconds: float = 120.0
    keep_seconds: float = 900.0
    keep_bytes: int = 4096 * MIB

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise ConfigError(f"{name.replace('_', ' ')} {value} must be positive")
