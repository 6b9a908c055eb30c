"""What results are called."""

import string
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from patchscaler.errors import ConfigError

DEFAULT_NAME = "{stem}_{size}"


class FileFormat(str, Enum):
    """Of results whose name we choose; `same`: the input's, or PNG where that cannot be written."""

    png = "png"
    jpg = "jpg"
    webp = "webp"
    tif = "tif"
    avif = "avif"
    jxl = "jxl"
    same = "same"

    @property
    def suffix(self) -> str:
        return f".{self.value}"


class Source(NamedTuple):
    """A picture.

    folder    of the call, in which it was found; None: named itself
    frame     which of several
    called    what it is called where that isn't its path
    animated  it is an animation that shall become one again
    """

    path: Path
    folder: Path | None = None
    frame: int | None = None
    called: str | None = None
    animated: bool = False

    @property
    def first(self) -> int | None:
        """The frame to look at, of an animation the first."""
        return 0 if self.animated else self.frame

    @property
    def subfolder(self) -> Path:
        return Path() if self.folder is None else self.path.relative_to(self.folder).parent

    def __str__(self) -> str:
        name = self.called or str(self.path)
        return name if self.frame is None else f"{name} (frame {self.frame + 1})"  # as in results' names


@dataclass(frozen=True)
class Naming:
    """How results are called: `template` with the fields stem, ext, size, model, seed, frame; raises ConfigError."""

    template: str
    size: str
    model: str
    seed: int
    file_format: FileFormat | None = None

    def __post_init__(self) -> None:
        example = self.stem(Source(Path("picture.png"), frame=0))
        if not example or example.startswith(".") or set(example) & set('/\\\0<>:"|?*'):
            raise ConfigError(f"--name {self.template}: makes {example!r}, which is no file name; use other characters")

    def stem(self, source: Source) -> str:
        number = "" if source.frame is None else f"{source.frame + 1:04d}"
        fields = {
            "stem": source.path.stem,
            "ext": source.path.suffix[1:],
            "size": self.size,
            "model": Path(self.model).name,
            "seed": self.seed,
            "frame": number,
        }
        try:
            used = {field for _, field, _, _ in string.Formatter().parse(self.template) if field is not None}
            if not used <= set(fields):
                raise KeyError(*(used - set(fields)))
            name = self.template.format(**fields)
        except (KeyError, ValueError, IndexError) as error:
            known = ", ".join(f"{{{field}}}" for field in fields)
            raise ConfigError(f"--name {self.template}: cannot be filled in ({error}); use {known}") from None
        return f"{name}_{number}" if number and "frame" not in used else name

    def suffix(self, source: Source) -> str:
        from patchscaler.imaging.animation import ANIMATED
        from patchscaler.imaging.files import FORMATS

        if self.file_format is FileFormat.same or (source.animated and self.file_format is None):
            own = source.path.suffix.lower()
            return own if own in (ANIMATED if source.animated else FORMATS) else ".png"
        return (self.file_format or FileFormat.png).suffix


def size_label(scale: float | None, width: int | None, height: int | None, max_side: int | None) -> str:
    """What {size} stands for: "x4", "x1.5", "w1920", "w1920_h1080", "max4000"."""
    sides = (("w", width), ("h", height), ("max", max_side))
    return "_".join(f"{letter}{side}" for letter, side in sides if side is not None) or f"x{scale or 4:g}"
