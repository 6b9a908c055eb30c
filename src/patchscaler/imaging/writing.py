"""Pictures to files: rounded, with profile, depth and metadata, whole or not at all."""

import errno
import io
import os
import struct
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

import numpy as np
from numpy import ndarray
from PIL import features

from patchscaler.errors import ImageWriteError
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.icc import GREY, RGB, colour_space, from_srgb, is_srgb
from patchscaler.imaging.metadata import Metadata, bare, jpeg_options, png_info, tiff_tags, updated, webp_options
from patchscaler.imaging.opening import register_jxl
from patchscaler.imaging.picture import Picture, as_float, is_colourless, quantise, to_pil, without_colour
from patchscaler.imaging.resize import resize_bicubic
from patchscaler.imaging.shapes import Shaped
from patchscaler.imaging.sixteen_bit import write_png16, write_tiff

FORMATS = {
    **{".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"},
    **({".avif": "AVIF"} if features.check("avif") else {}),
    **({".jxl": "JXL"} if find_spec("pillow_jxl") else {}),
}
EIGHT_BITS, COLOURS_ONLY = ("JPEG", "WEBP", "AVIF", "JXL"), ("WEBP", "AVIF")
PNG_LEVEL = 4  # of zlib: a third of the time of its default, 6, for files 6 % larger
KEPT_TEXTS = {"JPEG": {"Comment"}, **{kind: set[str]() for kind in ("WEBP", "TIFF", "AVIF", "JXL")}}  # of remarks
LONGEST_SIDES = {"JPEG": 65_500, "WEBP": 16_383, "AVIF": 65_535}  # px: limits of libjpeg and of the formats


@runtime_checkable
class Writable(Protocol):
    """A file object opened for writing in binary mode, or the like."""

    def write(self, data: bytes, /) -> Any: ...


def write_picture(
    path: str | Path | Writable,
    pixels: Shaped[ndarray, "1 3 h w"],
    *,
    like: Picture | None = None,
    alpha: Shaped[ndarray, "1 1 h w"] | None = None,
    quality: int = 95,
    lossless: bool = False,
    metadata: bool = True,
    history: str | None = None,
    format: str | None = None,
) -> None:
    """Write sRGB `pixels` (1,3,H,W) as PNG, JPEG, WebP, TIFF, AVIF or (extra `jxl`) JPEG XL, whole or not at all.

    path      whose suffix says the format; or a file object opened for writing in binary mode
    format    "png", "jpg", "webp", ..., for a path or file object whose name doesn't say it
    pixels    float in [0, 1], or samples of 8 or 16 bits; alpha likewise
    like      profile, EXIF, XMP, IPTC, DPI, grey and 16 bits are kept from it as far as the format can (16 bits: PNG
              and TIFF); in its profile the pixels are written, with the colours `like` has outside sRGB
    alpha     (1,1,H,W); by default that of `like`, resized to `pixels`; a JPEG is composited on white instead
    quality   1 to 100 for JPEG, WebP, AVIF and JPEG XL
    lossless  of WebP and JPEG XL
    metadata  False: none but profile and DPI, and the mark
    history   a line on what was done, for EXIF, which marks the file as a result of ours (`is_result`)

    Raises ImageWriteError, one line with the file and the cure: unknown suffix, a side too long for the format,
    unwritable place, full disk.
    """
    size = Size(*pixels.shape[-2:])
    named = path if isinstance(path, str | Path) else getattr(path, "name", None)
    place = Path(named if isinstance(named, str | Path) else "the picture")
    kind = check_format(place if format is None else place.with_suffix(f".{format.lower()}"), size)
    like = like or Picture(pixels)
    if alpha is None and like.alpha is not None:
        alpha = resize_bicubic(like.alpha, size, clamp=True)
    data = updated(like.metadata, like.size, size, history) if metadata else bare(like.metadata, history)
    lossy = {"quality": quality, "lossless": lossless}
    try:
        if isinstance(path, str | Path):
            with whole_file(place) as file:
                _encode(file, kind, pixels, alpha, like, data, lossy)
        else:
            _encode(encoded := io.BytesIO(), kind, pixels, alpha, like, data, lossy)
            path.write(encoded.getvalue())
    except (OSError, ValueError, struct.error) as error:
        raise ImageWriteError(f"{place}: {_write_failure(error, place)}") from error


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A new file beside `path`, which takes its place once the block is through; raises OSError."""
    partial = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with partial.open("xb") as file:
            yield file
        os.replace(partial, path)
    finally:
        with suppress(OSError):  # the folder may be out of reach; the first error is the one to report
            partial.unlink(missing_ok=True)


def check_format(path: Path, size: Size) -> str:
    """Pillow's name of the format that the suffix means; raises ImageWriteError if unknown or too small for `size`."""
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ImageWriteError(f"{path}: unknown format {path.suffix!r}; use one of {', '.join(FORMATS)}")
    longest = LONGEST_SIDES.get(kind)
    if longest is not None and max(size) > longest:
        raise ImageWriteError(f"{path}: {size} is too large for {kind}, whose sides end at {longest}; use PNG instead")
    return kind


def losses(picture: Picture, kind: str, metadata: bool = True) -> list[str]:
    """What of a picture a file of this kind ("PNG", "JPEG", ...) does not keep, after the remarks on its own."""
    eight = kind in EIGHT_BITS
    lost = {
        f"{picture.mode} became RGB": picture.mode in ("CMYK", "LAB"),
        "CMYK of 16 bits became RGB of 8": picture.mode == "CMYK;16",
        "16 bits became 8": picture.bits == 16 and eight,
        "clear parts became white": picture.alpha is not None and kind == "JPEG",
        "IPTC left out": metadata and picture.iptc is not None and kind in ("WEBP", "AVIF", "JXL"),
        "remarks left out": metadata and bool(set(picture.texts) - KEPT_TEXTS.get(kind, set(picture.texts))),
    }
    return [*picture.remarks, *(words for words, true in lost.items() if true)]


def _encode(
    file: IO[bytes] | io.BytesIO,
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
    elif kind == "JXL":
        register_jxl()
        blocks = {"exif": data.exif, "xmp": data.xmp, "icc_profile": icc}
        options = {**lossy, **{name: block for name, block in blocks.items() if block}}
        to_pil(pixels, alpha, grey).save(file, kind, **options)
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
