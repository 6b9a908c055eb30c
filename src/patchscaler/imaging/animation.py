"""Animations: how long their frames stay, and frames put together again."""

import io
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, PngImagePlugin

from patchscaler.errors import ImageWriteError
from patchscaler.imaging.opening import PictureFile, file_of, frames_of, opened
from patchscaler.imaging.writing import whole_file

ANIMATED = {".gif": "GIF", ".png": "PNG", ".apng": "PNG", ".webp": "WEBP"}
UNSTATED = 100  # ms, as browsers take it


class Animation(NamedTuple):
    """numbers: of the frames, without the still picture that an APNG may begin with; milliseconds: of each; loop: times
    that it is played, 0 for ever, None: unsaid."""

    numbers: list[int]
    milliseconds: list[float]
    loop: int | None


def is_animation(path: Path) -> bool:
    """Whether a file of several pictures is one, and not a stack of pages."""
    with opened(file_of(path)) as image:
        return image.format in ANIMATED.values()


def read_animation(file: PictureFile) -> Animation:
    """Raises ImageReadError."""
    with opened(file) as image:
        numbers = frames_of(image)[1 if getattr(image, "default_image", False) else 0 :]
        milliseconds = []
        for number in numbers:
            image.seek(number)
            image.load()  # by which a WebP says how long
            milliseconds.append(float(image.info.get("duration") or UNSTATED))
        return Animation(numbers, milliseconds, image.info.get("loop"))


def write_animation(
    path: Path, frames: Sequence[Path], animation: Animation, *, quality: int, lossless: bool, metadata: bool
) -> None:
    """Files of frames, all of one size, as GIF, APNG or animated WebP by the suffix of `path`, whole or not at all.

    What the first one says in EXIF, profile and (a GIF's comment) history holds for all; `metadata` is theirs already.
    Raises ImageWriteError.
    """
    kind = ANIMATED[path.suffix.lower()]
    times = [round(each) for each in animation.milliseconds]
    with ExitStack() as stack:
        first, *others = [stack.enter_context(Image.open(frame)) for frame in frames]
        exif, icc = first.info.get("exif"), first.info.get("icc_profile")
        options: dict[str, Any] = {"save_all": True, "append_images": others, "duration": times}
        if kind == "GIF":
            clear = first.has_transparency_data
            options |= {"comment": b"PatchScaler", "disposal": 2 if clear else 1}
            options |= {} if animation.loop is None else {"loop": animation.loop}
        else:
            options |= {"loop": 1 if animation.loop is None else animation.loop, "exif": exif, "icc_profile": icc}
        if kind == "WEBP":
            options |= {"quality": quality, "lossless": lossless}
        elif kind == "PNG":
            options |= {"pnginfo": PngImagePlugin.PngInfo()}
        try:
            with whole_file(path) as file:
                encoded = io.BytesIO()  # whose writers seek
                first.save(encoded, kind, **{name: value for name, value in options.items() if value is not None})
                file.write(encoded.getvalue())
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ImageWriteError(f"{path}: could not be written ({reason}); try another folder") from error
