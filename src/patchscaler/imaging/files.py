"""Pictures between files and arrays: read by mode, EXIF and ICC; how they are written is in `writing`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from PIL.ImageFile import ImageFile

from patchscaler.errors import ImageReadError
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.mending import mend
from patchscaler.imaging.metadata import read_orientation
from patchscaler.imaging.opening import PictureFile, Readable, file_of, frames_of, open_picture, opened
from patchscaler.imaging.picture import Picture, decode, to_pil
from patchscaler.imaging.searching import PICTURE_SUFFIXES, find_pictures
from patchscaler.imaging.sixteen_bit import read_samples
from patchscaler.imaging.transfer import colour_remarks
from patchscaler.imaging.writing import FORMATS, check_format, losses, write_picture

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "PICTURE_SUFFIXES",
    "Picture",
    "PictureFile",
    "check_format",
    "find_frames",
    "find_pictures",
    "losses",
    "read_picture",
    "read_size",
    "to_pil",
    "write_picture",
]

T = TypeVar("T")
MAX_PIXELS = 100_000_000
Source = str | Path | bytes | Readable | PictureFile


def read_picture(source: Source, *, frame: int | None = None, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read the picture of a file, upright, as sRGB, at its full depth.

    source  a path, the bytes of a file, or a file object opened in binary mode, which is read to its end
    frame   which of several, one of `find_frames`; None: the only one

    Palettes, CMYK and the like become RGB. HEIC needs the extra `heic`.
    Raises ImageReadError, one line with the file and the cure: missing, empty, truncated, no picture, of an unsupported
    mode, an animation or several pages where no frame is given, or of more than `max_pixels` pixels (by its header,
    before anything is decoded).
    """

    def read(file: PictureFile) -> Picture:
        with _at_frame(file, frame, max_pixels) as (image, number):
            picture = decode(image, read_samples(image, lambda: open_picture(file, number)))
            return replace(picture, remarks=(*picture.remarks, *colour_remarks(file.head(), image.info)))

    picture, remarks = _mended(file_of(source), max_pixels, read)
    return replace(picture, remarks=(*picture.remarks, *remarks))


def read_size(source: Source, *, frame: int | None = None, max_pixels: int = MAX_PIXELS) -> Size:
    """The size that `read_picture` would return, from the file's header; raises as it does, but for damaged pixels."""

    def read(file: PictureFile) -> Size:
        with _at_frame(file, frame, max_pixels) as (image, _):
            size = Size(image.height, image.width)
            turned = read_orientation(image) > 4 and image.format != "TIFF"  # whose size Pillow has turned already
            return Size(size.width, size.height) if turned else size

    return _mended(file_of(source), max_pixels, read)[0]


def _mended(file: PictureFile, max_pixels: int, read: Callable[[PictureFile], T]) -> tuple[T, list[str]]:
    """What `read` makes of a file or, where that fails, of the file mended; and what is to be said of the mending."""
    try:
        return read(file), []
    except ImageReadError:
        mended = mend(file, max_pixels)
        if mended is None:
            raise
        return read(mended.file), [mended.remark]


@contextmanager
def _at_frame(file: PictureFile, frame: int | None, max_pixels: int) -> Iterator[tuple[ImageFile, int]]:
    """The file opened at a frame, and the frame's number."""
    with opened(file) as image:
        _check_size(file.name, image, max_pixels)
        frames = frames_of(image)
        if frame is None and len(frames) > 1:
            kind = "pages" if image.format == "TIFF" else "frames"
            raise ImageReadError(f"{file.name}: has {len(frames)} {kind}; take the first or each of them (--frames)")
        if not frames or (frame is not None and frame not in frames):
            raise ImageReadError(f"{file.name}: has no frame {frame}; choose from {frames}")
        chosen = frames[0] if frame is None else frame
        if chosen:
            image.seek(chosen)
        _check_size(file.name, image, max_pixels)  # a TIFF's pages may differ
        yield image, chosen


def find_frames(source: Source) -> list[int]:
    """Numbers of a file's frames or pages (a TIFF's reduced copies left out) for `read_picture`.

    Raises ImageReadError as `read_picture` does.
    """
    with opened(file_of(source)) as image:
        return frames_of(image)


def _check_size(name: str, image: ImageFile, max_pixels: int) -> None:
    sides = f"{image.width}x{image.height}"
    if min(image.size) < 1:
        raise ImageReadError(f"{name}: has no pixels ({sides}); use another picture")
    if image.width * image.height > max_pixels:
        raise ImageReadError(
            f"{name}: {sides} is more than the limit of {max_pixels} pixels; use a smaller picture or raise the limit"
        )
