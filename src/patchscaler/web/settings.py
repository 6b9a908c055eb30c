"""What a server allows and offers: the options of a job, limits, formats."""

from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from patchscaler.errors import ConfigError
from patchscaler.options import QUALITIES

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
class Control:
    """How the page asks for an option. `choices`: what it offers, value to label; none: a box is ticked for a truth
    value, a number is typed, or slid to where `step` is given. A default of None: a box leaves it to the program."""

    label: str
    hint: str = ""
    choices: dict[Any, str] | None = None
    step: float | None = None


QUALITY = Control(
    "Quality",
    "More steps: finer detail, more time",
    {Quality.fast: "Fast", Quality.balanced: "Balanced", Quality.best: "Best"},
)
SCALE = Control("Size", choices={1: "x1, same size", 2: "x2", 3: "x3", 4: "x4"})
DENOISE = Control(
    "Denoise", "Less: grain stays, faster. More: smoother, slower. Automatic: chosen for each picture", step=0.1
)
WRAP = Control("Texture that tiles", "Each border continues on the opposite side")
SEED = Control("Seed", "Same seed, same result")
FORMAT = Control(
    "Save as",
    choices={Format.png: "PNG", Format.jpg: "JPEG", Format.webp: "WebP", Format.tif: "TIFF"},
)


class Options(BaseModel):
    """Of one job. The API's query, the job's status and the page's controls are all made from these fields."""

    model_config = ConfigDict(frozen=True)

    quality: Annotated[Quality, QUALITY, Field(description="more steps: finer detail, more time")] = Quality.balanced
    scale: Annotated[float, SCALE, Field(ge=1, le=LARGEST_SCALE, description="1: restore only")] = LARGEST_SCALE
    format: Annotated[Format, FORMAT, Field(description="of the result")] = Format.png
    denoise: Annotated[
        float | None,
        DENOISE,
        Field(ge=0, le=1, description="how much the second restorer counts; null: chosen for each picture by the gate"),
        BeforeValidator(lambda value: None if value == "null" else value),  # in a query all values are texts
    ] = None
    wrap: Annotated[bool, WRAP, Field(description="for textures that tile: borders continue on the opposite side")] = (
        False
    )
    seed: Annotated[
        int,
        SEED,
        Field(ge=0, lt=2**63, description="same seed, same result", json_schema_extra={"format": "int64"}),
    ] = 0

    @property
    def call(self) -> dict[str, Any]:
        """Arguments of Upscaler's call: the options under their own names, but for the format, which is for the file
        alone."""
        return self.model_dump(exclude={"format"}) | {"quality": self.quality.value}


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
