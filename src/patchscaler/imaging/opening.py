"""Files opened by Pillow: which formats and frames, how much, and one clear error for whatever is wrong with a file."""

import functools
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, cast

from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from patchscaler.errors import ImageReadError
from patchscaler.imaging.picture import DECODE_ERRORS

# What is decoded: pictures proper. Pillow opens others too, EPS by starting a PostScript interpreter.
READ_FORMATS = (
    *("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "DIB", "GIF", "AVIF", "HEIF", "JPEG2000"),
    *("PPM", "TGA", "PCX", "ICO", "PSD", "SGI", "QOI", "DDS"),
)
FRAMED_FORMATS = frozenset({"PNG", "WEBP", "TIFF", "GIF", "AVIF", "HEIF"})  # a phone's MPO has previews at its end
SUBFILE_TYPE, DNG_VERSION = 254, 50706  # TIFF tags
RAW_SUFFIXES = frozenset(
    {".dng", ".nef", ".nrw", ".cr2", ".cr3", ".arw", ".sr2", ".orf", ".rw2", ".pef", ".srw", ".raf"}
)
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

_pillow_limit = threading.Lock()


@contextmanager
def opened(path: Path) -> Iterator[ImageFile]:
    """The file opened by Pillow; whatever goes wrong in the block becomes an ImageReadError."""
    try:
        if not path.exists():
            raise ImageReadError(f"{path}: no such file; check the path")
        if not path.is_file():
            raise ImageReadError(f"{path}: is a folder or device, not a file; name a picture in it")
        if path.stat().st_size == 0:
            raise ImageReadError(f"{path}: the file is empty; copy or download it again")
        if path.suffix.lower() in RAW_SUFFIXES:
            _refuse_raw(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata
            with open_picture(path) as image:
                if isinstance(image, TiffImageFile) and (DNG_VERSION in image.tag_v2 or not frames_of(image)):
                    _refuse_raw(path)
                yield image
    except UnidentifiedImageError as error:
        if _is_heic(path) and not _register_heif():
            cure = "install the reader (pip install 'patchscaler[heic]') or save it as JPEG"
            raise ImageReadError(f"{path}: HEIC pictures need one more package; {cure}") from error
        raise ImageReadError(f"{path}: not a picture or of an unknown format; save it as PNG or JPEG") from error
    except MemoryError as error:
        raise ImageReadError(f"{path}: not enough memory to decode it; use a smaller picture") from error
    except PermissionError as error:
        raise ImageReadError(f"{path}: may not be read; change its permissions") from error
    except DECODE_ERRORS as error:
        reason = " ".join(str(error).split())
        raise ImageReadError(f"{path}: damaged or unsupported ({reason}); copy it again or save it as PNG") from error


def _refuse_raw(path: Path) -> NoReturn:
    raise ImageReadError(f"{path}: a camera's raw file; develop it first, and give the TIFF, PNG or JPEG")


def frames_of(image: ImageFile) -> list[int]:
    """Numbers of the frames; pages of a TIFF that are reduced copies or masks do not count."""
    count = int(getattr(image, "n_frames", 1)) if image.format in FRAMED_FORMATS else 1
    if image.format != "TIFF":
        return list(range(count))
    frames = []
    for number in range(count):
        image.seek(number)
        if not int(image.tag_v2.get(SUBFILE_TYPE, 0)) & 0b101:  # type: ignore[attr-defined]
            frames.append(number)
    image.seek(0)
    return frames


@contextmanager
def _no_pillow_limit() -> Iterator[None]:
    """Lift Pillow's process-wide pixel limit while a header is read: `max_pixels` decides, without a warning."""
    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def open_picture(path: Path, frame: int = 0) -> ImageFile:
    """Pillow's image of a frame, not yet decoded; raises what Pillow raises."""
    if _is_heic(path):
        _register_heif()
    with _no_pillow_limit():
        image = cast(ImageFile, Image.open(path, formats=[name for name in READ_FORMATS if _can_read(name)]))
    if frame:
        image.seek(frame)
    return image


def _can_read(name: str) -> bool:
    Image.init()  # Pillow refuses names it doesn't know
    return name in Image.OPEN


def _is_heic(path: Path) -> bool:
    """By the brand in the file's head (ISO/IEC 23008-12): HEVC pictures and sequences, or unspecific."""
    with path.open("rb") as file:
        head = file.read(12)
    return head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS


@functools.cache
def _register_heif() -> bool:
    """Teach Pillow HEIC; False where the package is not installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True
