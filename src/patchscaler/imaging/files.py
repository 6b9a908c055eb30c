"""Pictures between files and arrays: read by mode, EXIF and ICC, written rounded and whole or not at all."""

import errno
import os
import struct
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Shaped
from numpy import ndarray
from PIL import features
from PIL.ImageFile import ImageFile

from patchscaler.errors import ImageReadError, ImageWriteError
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.icc import GREY, RGB, colour_space, from_srgb, is_srgb
from patchscaler.imaging.mending import mend
from patchscaler.imaging.metadata import (
    Metadata,
    bare,
    jpeg_options,
    png_info,
    read_orientation,
    tiff_tags,
    updated,
    webp_options,
)
from patchscaler.imaging.opening import PictureFile, Readable, file_of, frames_of, open_picture, opened
from patchscaler.imaging.picture import (
    Picture,
    as_float,
    decode,
    is_colourless,
    quantise,
    to_pil,
    without_colour,
)
from patchscaler.imaging.resize import resize_bicubic
from patchscaler.imaging.searching import PICTURE_SUFFIXES, find_pictures
from patchscaler.imaging.sixteen_bit import read_samples, write_png16, write_tiff
from patchscaler.imaging.transfer import colour_remarks

__all__ = [
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

MAX_PIXELS = 100_000_000
Source = str | Path | bytes | Readable | PictureFile
FORMATS = {
    **{".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"},
    **({".avif": "AVIF"} if features.check("avif") else {}),
}
LOSSY, COLOURS_ONLY = ("JPEG", "WEBP", "AVIF"), ("WEBP", "AVIF")
PNG_LEVEL = 4  # of zlib: a third of the time of its default, 6, for files 6 % larger
KEPT_TEXTS = {"JPEG": {"Comment"}, "WEBP": set[str](), "TIFF": set[str](), "AVIF": set[str]()}  # of a picture's remarks
LONGEST_SIDES = {"JPEG": 65_500, "WEBP": 16_383, "AVIF": 65_535}  # px: limits of libjpeg and of the formats


def read_picture(source: Source, *, frame: int | None = None, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read the picture of a file, upright, as sRGB, at its full depth.

    source  a path, the bytes of a file, or a file object opened in binary mode, which is read to its end
    frame   which of several, one of `find_frames`; None: the only one

    Palettes, CMYK and the like become RGB. HEIC needs the extra `heic`.
    Raises ImageReadError, one line with the file and the cure: missing, empty, truncated, no picture, of an unsupported
    mode, an animation or several pages where no frame is given, or of more than `max_pixels` pixels (by its header,
    before anything is decoded).
    """
    file = file_of(source)
    try:
        return _read(file, frame, max_pixels)
    except ImageReadError:
        mended = mend(file, max_pixels)
        if mended is None:
            raise
        picture = _read(mended.file, frame, max_pixels)
        return replace(picture, remarks=(*picture.remarks, mended.remark))


def _read(file: PictureFile, frame: int | None, max_pixels: int) -> Picture:
    with _at_frame(file, frame, max_pixels) as (image, number):
        picture = decode(image, read_samples(image, lambda: open_picture(file, number)))
        return replace(picture, remarks=(*picture.remarks, *colour_remarks(file.head(), image.info)))


def read_size(source: Source, *, frame: int | None = None, max_pixels: int = MAX_PIXELS) -> Size:
    """The size that `read_picture` would return, from the file's header; raises as it does, but for damaged pixels."""
    file = file_of(source)
    try:
        return _read_size(file, frame, max_pixels)
    except ImageReadError:
        mended = mend(file, max_pixels)
        if mended is None:
            raise
        return _read_size(mended.file, frame, max_pixels)


def _read_size(file: PictureFile, frame: int | None, max_pixels: int) -> Size:
    with _at_frame(file, frame, max_pixels) as (image, _):
        size = Size(image.height, image.width)
        turned = read_orientation(image) > 4 and image.format != "TIFF"  # whose size Pillow has turned already
        return Size(size.width, size.height) if turned else size


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


def write_picture(
    path: str | Path,
    pixels: Shaped[ndarray, "1 3 h w"],
    *,
    like: Picture | None = None,
    alpha: Shaped[ndarray, "1 1 h w"] | None = None,
    quality: int = 95,
    lossless: bool = False,
    metadata: bool = True,
    history: str | None = None,
) -> None:
    """Write sRGB `pixels` (1,3,H,W) as PNG, JPEG, WebP, TIFF or AVIF, by the suffix of `path`; whole or not at all.

    pixels    float in [0, 1], or samples of 8 or 16 bits; alpha likewise
    like      profile, EXIF, XMP, IPTC, DPI, grey and 16 bits are kept from it as far as the format can (16 bits: PNG
              and TIFF); in its profile the pixels are written, with the colours `like` has outside sRGB
    alpha     (1,1,H,W); by default that of `like`, resized to `pixels`; a JPEG is composited on white instead
    quality   1 to 100 for JPEG, WebP and AVIF
    lossless  of WebP
    metadata  False: none but profile and DPI, and the mark
    history   a line on what was done, for EXIF, which marks the file as a result of ours (`is_result`)

    Raises ImageWriteError, one line with the file and the cure: unknown suffix, a side too long for the format,
    unwritable place, full disk.
    """
    path = Path(path)
    size = Size(*pixels.shape[-2:])
    kind = check_format(path, size)
    like = like or Picture(pixels)
    if alpha is None and like.alpha is not None:
        alpha = resize_bicubic(like.alpha, size, clamp=True)
    data = updated(like.metadata, like.size, size, history) if metadata else bare(like.metadata, history)
    partial = path.with_name(f".{uuid.uuid4().hex}.part")  # beside the result, so that replacing it is atomic
    try:
        with partial.open("xb") as file:
            _encode(file, kind, pixels, alpha, like, data, {"quality": quality, "lossless": lossless})
        os.replace(partial, path)
    except (OSError, ValueError, struct.error) as error:
        raise ImageWriteError(f"{path}: {_write_failure(error, path)}") from error
    finally:
        _remove(partial)


def check_format(path: Path, size: Size) -> str:
    """Pillow's name of the format that the suffix means; raises ImageWriteError if unknown or too small for `size`."""
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ImageWriteError(f"{path}: unknown format {path.suffix!r}; use one of {', '.join(FORMATS)}")
    longest = LONGEST_SIDES.get(kind)
    if longest is not None and max(size) > longest:
        sides = f"{size.width}x{size.height}"
        raise ImageWriteError(f"{path}: {sides} is too large for {kind}, whose sides end at {longest}; use PNG instead")
    return kind


def losses(picture: Picture, kind: str, metadata: bool = True) -> list[str]:
    """What of a picture a file of this kind ("PNG", "JPEG", ...) does not keep, after the remarks on its own."""
    lossy = kind in LOSSY
    lost = {
        f"{picture.mode} became RGB": picture.mode in ("CMYK", "LAB"),
        "CMYK of 16 bits became RGB of 8": picture.mode == "CMYK;16",
        "16 bits became 8": picture.bits == 16 and lossy,
        "clear parts became white": picture.alpha is not None and kind == "JPEG",
        "IPTC left out": metadata and picture.iptc is not None and kind in COLOURS_ONLY,
        "remarks left out": metadata and bool(set(picture.texts) - KEPT_TEXTS.get(kind, set(picture.texts))),
    }
    return [*picture.remarks, *(words for words, true in lost.items() if true)]


def _encode(
    file: BinaryIO,
    kind: str,
    pixels: ndarray,
    alpha: ndarray | None,
    like: Picture,
    data: Metadata,
    lossy: dict[str, Any],
) -> None:
    grey = like.grey and kind not in COLOURS_ONLY
    icc = like.icc_profile
    if icc is not None and colour_space(icc) != (GREY if grey else RGB):
        icc = None  # the profile of another colour space than the file will have; sRGB needs none
    if icc is not None and not is_srgb(icc):
        colourless = is_colourless(pixels := as_float(pixels))
        pixels = from_srgb(pixels, icc)
        if colourless and is_colourless(pixels):
            pixels = without_colour(pixels)
        if like.beyond is not None:
            pixels = pixels + resize_bicubic(like.beyond, Size(*pixels.shape[-2:]))
    if like.bits == 16 and kind == "PNG":
        samples = quantise(pixels, alpha, grey, np.uint16)
        write_png16(file, samples, exif=data.exif, icc_profile=icc, dpi=data.dpi, info=png_info(data))
    elif kind == "TIFF":
        samples = quantise(pixels, alpha, grey, np.uint16 if like.bits == 16 else np.uint8)
        write_tiff(file, samples, exif=data.exif, icc_profile=icc, dpi=data.dpi, tags=tiff_tags(data))
    elif kind == "PNG":
        blocks = {"exif": data.exif, "dpi": data.dpi, "pnginfo": png_info(data)}
        options = {"icc_profile": icc, "compress_level": PNG_LEVEL, **{k: v for k, v in blocks.items() if v}}
        to_pil(pixels, alpha, grey).save(file, kind, **options)
    elif kind == "WEBP":
        to_pil(pixels, alpha, grey).save(file, kind, icc_profile=icc, **lossy, **webp_options(data))
    elif kind == "AVIF":
        options = {"quality": lossy["quality"], **webp_options(data)}
        to_pil(pixels, alpha, grey).save(file, kind, icc_profile=icc or b"", subsampling="4:4:4", **options)
    else:
        if alpha is not None:
            pixels, alpha = as_float(pixels), as_float(alpha)
            pixels = pixels * alpha + (1.0 - alpha)
        options = {"quality": lossy["quality"], "subsampling": 0, **jpeg_options(data)}
        to_pil(pixels, None, grey).save(file, kind, icc_profile=icc, **options)


def _write_failure(error: Exception, path: Path) -> str:
    """What went wrong and what to do, for a message that begins with the file."""
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.ENOSPC:
        return "the disk is full; free some space or choose another folder"
    if number == errno.ENOENT:
        return f"the folder {path.parent} does not exist; create it first"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"may not be written in {path.parent}; choose another folder"
    if path.is_dir():
        return "is a folder; name a file"
    return f"could not be written ({' '.join(str(error).split())}); try another folder, or PNG instead"


def _remove(partial: Path) -> None:
    try:
        partial.unlink(missing_ok=True)
    except OSError:  # the folder itself is out of reach, so nothing was written; the first error is the one to report
        return
