"""Pictures between files and tensors: read by mode, EXIF and ICC, written rounded and whole or not at all."""

import errno
import os
import struct
import threading
import uuid
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from jaxtyping import Shaped
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from torch import Tensor

from patchscaler.errors import ImageReadError, ImageWriteError
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.picture import (
    DECODE_ERRORS,
    Picture,
    as_float,
    decode,
    from_array,
    from_tensor,
    quantise,
    resized_exif,
    to_pil,
)
from patchscaler.imaging.resize import resize_bicubic
from patchscaler.imaging.sixteen_bit import read_samples, write_png16, write_tiff

__all__ = ["MAX_PIXELS", "Picture", "find_pictures", "picture_from", "read_picture", "to_pil", "write_picture"]

MAX_PIXELS = 100_000_000
PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif"})
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
PNG_LEVEL = 4  # of zlib: a third of the time of its default, 6, for files 6 % larger
LARGEST_JPEG_EXIF = 65_533  # bytes: one APP1 segment

_pillow_limit = threading.Lock()


def find_pictures(paths: Iterable[str | Path], recursive: bool = False) -> list[Path]:
    """The files among `paths` as given, each directory replaced by its picture files, sorted; no file twice.

    Raises ImageReadError for a path that does not exist and for a directory without pictures.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            if not path.exists():
                raise ImageReadError(f"{path}: no such file or directory; check the path")
            found.append(path)
            continue
        try:
            files = path.rglob("*") if recursive else path.iterdir()
            pictures = (f for f in files if f.suffix.lower() in PICTURE_SUFFIXES and f.name[0] != ".")
            inside = sorted(f for f in pictures if f.is_file())
        except OSError as error:
            raise ImageReadError(f"{path}: may not be searched ({error.strerror}); change its permissions") from error
        if not inside:
            cure = "name another one" if recursive else "name another one (its subfolders are not searched)"
            raise ImageReadError(f"{path}: no pictures in this folder; {cure}")
        found += inside
    return list(dict.fromkeys(found))


def read_picture(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read the (first) picture of a file, upright, at its full depth.

    Palettes, CMYK and the like become RGB; CMYK by its ICC profile, other profiles are kept and not applied.
    Raises ImageReadError, one line with the file and the cure: missing, empty, truncated, no picture, of an unsupported
    mode, or of more than `max_pixels` pixels (by its header, before anything is decoded).
    """
    path = Path(path)
    try:
        if not path.exists():
            raise ImageReadError(f"{path}: no such file; check the path")
        if not path.is_file():
            raise ImageReadError(f"{path}: is a folder or device, not a file; name a picture in it")
        if path.stat().st_size == 0:
            raise ImageReadError(f"{path}: the file is empty; copy or download it again")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata
            with _open(path) as image:
                if min(image.size) < 1:
                    raise ImageReadError(f"{path}: has no pixels ({image.height}x{image.width}); use another picture")
                if image.width * image.height > max_pixels:
                    raise ImageReadError(
                        f"{path}: {image.height}x{image.width} is more than the limit of {max_pixels} pixels; "
                        "use a smaller picture or raise the limit"
                    )
                return decode(image, read_samples(image, lambda: _open(path)))
    except UnidentifiedImageError as error:
        raise ImageReadError(f"{path}: not a picture or of an unknown format; save it as PNG or JPEG") from error
    except MemoryError as error:
        raise ImageReadError(f"{path}: not enough memory to decode it; use a smaller picture") from error
    except PermissionError as error:
        raise ImageReadError(f"{path}: may not be read; change its permissions") from error
    except DECODE_ERRORS as error:
        reason = " ".join(str(error).split())
        raise ImageReadError(f"{path}: damaged or unsupported ({reason}); copy it again or save it as PNG") from error


def picture_from(image: object) -> Picture:
    """A Picture from whatever a program has.

    str, Path     a file: `read_picture`
    PIL.Image     at most 8 bits a colour sample (16 for grey): for more, give the path
    numpy array   (H,W), (H,W,3) or (H,W,4); uint8, uint16 or float in [0, 1]
    torch tensor  (3,H,W) or (1,3,H,W) float in [0, 1]

    Raises ImageReadError for files, TypeError for other types, ValueError for other shapes, dtypes and ranges.
    """
    if isinstance(image, str | Path):
        return read_picture(image)
    if isinstance(image, Image.Image):
        if min(image.size) < 1:
            raise ValueError(f"a picture of {image.height}x{image.width} has no pixels")
        return decode(image, None)
    if isinstance(image, Tensor):
        return from_tensor(image)
    if isinstance(image, np.ndarray):
        return from_array(image)
    raise TypeError(f"cannot make a picture of {type(image).__name__}; give a path, PIL.Image, numpy array or tensor")


def write_picture(
    path: str | Path,
    pixels: Shaped[Tensor, "1 3 h w"],
    *,
    like: Picture | None = None,
    alpha: Shaped[Tensor, "1 1 h w"] | None = None,
    quality: int = 95,
) -> None:
    """Write `pixels` (1,3,H,W) as PNG, JPEG, WebP or TIFF, by the suffix of `path`; whole or not at all.

    pixels   float in [0, 1], or samples of 8 or 16 bits
    like     EXIF, ICC, DPI, grey and 16 bits are kept from it as far as the format can (16 bits: PNG and TIFF)
    alpha    (1,1,H,W) likewise; by default that of `like`, resized to `pixels`; a JPEG is composited on white instead
    quality  1 to 100 for JPEG and WebP

    Raises ImageWriteError, one line with the file and the cure: unknown suffix, unwritable place, full disk.
    """
    path = Path(path)
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ImageWriteError(f"{path}: unknown format {path.suffix!r}; use one of {', '.join(FORMATS)}")
    like = like or Picture(pixels)
    if alpha is None and like.alpha is not None:
        alpha = resize_bicubic(like.alpha, Size(*pixels.shape[-2:]), clamp=True)
    partial = path.with_name(f".{uuid.uuid4().hex}.part")  # beside the result, so that replacing it is atomic
    try:
        with partial.open("xb") as file:
            _encode(file, kind, pixels, alpha, like, quality)
        os.replace(partial, path)
    except (OSError, ValueError, struct.error) as error:
        raise ImageWriteError(f"{path}: {_write_failure(error, path)}") from error
    finally:
        _remove(partial)


def _encode(file: BinaryIO, kind: str, pixels: Tensor, alpha: Tensor | None, like: Picture, quality: int) -> None:
    grey = like.grey and kind != "WEBP"  # WebP has no grey
    icc = like.icc_profile
    if icc is not None and icc[16:20] != (b"GRAY" if grey else b"RGB "):
        icc = None  # the profile of another colour space than the file will have
    exif = resized_exif(like.exif, Size(*pixels.shape[-2:]))
    if like.bits == 16 and kind == "PNG":
        write_png16(file, quantise(pixels, alpha, grey, np.uint16), exif=exif, icc_profile=icc, dpi=like.dpi)
        return
    if kind == "TIFF":
        samples = quantise(pixels, alpha, grey, np.uint16 if like.bits == 16 else np.uint8)
        write_tiff(file, samples, exif=exif, icc_profile=icc, dpi=like.dpi)
        return
    options: dict[str, Any] = {"icc_profile": icc}
    if kind == "JPEG":
        if alpha is not None:
            pixels, alpha = as_float(pixels), as_float(alpha)
            pixels, alpha = pixels * alpha + (1.0 - alpha), None
        if exif and len(exif) > LARGEST_JPEG_EXIF:
            exif = None
        options |= {"quality": quality, "subsampling": 0}
    elif kind == "WEBP":
        options |= {"quality": quality}
    elif kind == "PNG":
        options |= {"compress_level": PNG_LEVEL}
    if exif:
        options["exif"] = exif
    if like.dpi and kind != "WEBP":
        options["dpi"] = like.dpi
    to_pil(pixels, alpha, grey).save(file, kind, **options)


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


@contextmanager
def _no_pillow_limit() -> Iterator[None]:
    """Lift Pillow's process-wide pixel limit while a header is read: `max_pixels` decides, without a warning."""
    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _open(path: Path) -> ImageFile:
    with _no_pillow_limit():
        return cast(ImageFile, Image.open(path))
