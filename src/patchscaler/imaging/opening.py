"""Files opened by Pillow: which formats and frames, how much, and one clear error for whatever is wrong with a file."""

import functools
import io
import threading
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn, Protocol, cast, runtime_checkable

from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from patchscaler.errors import ImageReadError
from patchscaler.imaging.metadata import ORIENTATION, TIFF_TURN
from patchscaler.imaging.unreadable import COMPRESSION, DECODE_ERRORS, RAW_SUFFIXES, never_decoded, what_it_is

# What is decoded: pictures proper. Pillow opens others too, EPS by starting a PostScript interpreter.
READ_FORMATS = (
    *("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "DIB", "GIF", "AVIF", "HEIF", "JPEG2000"),
    *("PPM", "TGA", "PCX", "ICO", "PSD", "SGI", "QOI", "DDS", "JXL"),
)
FRAMED_FORMATS = frozenset({"PNG", "WEBP", "TIFF", "GIF", "AVIF", "HEIF"})  # a phone's MPO has previews at its end
SUBFILE_TYPE, DNG_VERSION = 254, 50706  # TIFF tags
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
JXL_HEADS = (b"\xff\x0a", b"\0\0\0\x0cJXL ")  # a bare codestream, a container
HEAD_BYTES = 4096

_pillow_limit = threading.Lock()


@runtime_checkable
class Readable(Protocol):
    """A file object opened in binary mode, or the like."""

    def read(self, size: int = -1, /) -> bytes: ...


class PictureFile(NamedTuple):
    """A picture's file, on a disk or in memory, and what messages call it."""

    name: str
    content: Path | bytes

    def open(self) -> io.BufferedIOBase:
        return self.content.open("rb") if isinstance(self.content, Path) else io.BytesIO(self.content)

    def head(self) -> bytes:
        with self.open() as file:
            return file.read(HEAD_BYTES)


def file_of(source: "str | Path | bytes | bytearray | memoryview | Readable | PictureFile") -> PictureFile:
    """From a path, bytes, or a file object, which is read to its end; ImageReadError where that fails."""
    if isinstance(source, PictureFile):
        return source
    if isinstance(source, str | Path):
        return PictureFile(str(source), Path(source))
    name = getattr(source, "name", None)
    shown = name if isinstance(name, str) else "the picture"
    try:
        return PictureFile(
            shown, bytes(source if isinstance(source, bytes | bytearray | memoryview) else source.read())
        )
    except (OSError, ValueError, TypeError) as error:
        raise ImageReadError(f"{shown}: cannot be read ({error}); give a file opened in binary mode") from error


@contextmanager
def opened(file: PictureFile) -> Iterator[ImageFile]:
    """The file opened by Pillow; whatever goes wrong in the block becomes an ImageReadError."""
    name = file.name
    try:
        _check_place(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata
            with open_picture(file) as image:
                if isinstance(image, TiffImageFile) and (DNG_VERSION in image.tag_v2 or not frames_of(image)):
                    _refuse_raw(name)
                if isinstance(image, TiffImageFile) and never_decoded(image.tag_v2.get(COMPRESSION, 1)):
                    raise ValueError("unknown compression")
                yield image
    except ImageReadError:
        raise
    except MemoryError as error:
        raise ImageReadError(f"{name}: not enough memory to decode it; use a smaller picture") from error
    except PermissionError as error:
        raise ImageReadError(f"{name}: may not be read; change its permissions") from error
    except UnidentifiedImageError as error:
        if is_heic(file.head()) and not register_heif():
            cure = "install the reader (pip install 'patchscaler[heic]') or save it as JPEG"
            raise ImageReadError(f"{name}: HEIC pictures need one more package; {cure}") from error
        known = what_it_is(file) or "not a picture or of an unknown format; save it as PNG or JPEG"
        raise ImageReadError(f"{name}: {known}") from error
    except DECODE_ERRORS as error:
        reason = what_it_is(file) or _damage(error)
        raise ImageReadError(f"{name}: {reason}") from error


def _check_place(file: PictureFile) -> None:
    path, name = file.content, file.name
    if isinstance(path, bytes):
        size = len(path)
    elif not path.exists():
        raise ImageReadError(f"{name}: no such file; check the path")
    elif not path.is_file():
        raise ImageReadError(f"{name}: is a folder or device, not a file; name a picture in it")
    else:
        size = path.stat().st_size
        if path.suffix.lower() in RAW_SUFFIXES:
            _refuse_raw(name)
    if size == 0:
        raise ImageReadError(f"{name}: the file is empty; copy or download it again")


def _damage(error: Exception) -> str:
    if "allocate memory" in str(error):  # torch's, as a plain RuntimeError
        return "not enough memory to decode it; use a smaller picture"
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"damaged or unsupported ({reason}); copy it again or save it as PNG"


def _refuse_raw(name: str) -> NoReturn:
    raise ImageReadError(f"{name}: a camera's raw file; develop it first, and give the TIFF, PNG or JPEG")


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


def open_picture(file: PictureFile, frame: int = 0, formats: Collection[str] = READ_FORMATS) -> ImageFile:
    """Pillow's image of a frame, not yet decoded; raises what Pillow raises."""
    if "HEIF" in formats and is_heic(file.head()):
        register_heif()
    if "JXL" in formats and file.head().startswith(JXL_HEADS):
        register_jxl()
    content = io.BytesIO(file.content) if isinstance(file.content, bytes) else file.content
    with _no_pillow_limit():
        image = cast(ImageFile, Image.open(content, formats=[name for name in formats if not _unknown(name)]))
    if frame:
        image.seek(frame)
    if isinstance(image, TiffImageFile):
        image.info[TIFF_TURN] = image.tag_v2.get(ORIENTATION, 1)  # it is forgotten when the picture is loaded
        image.filename = ""  # where Pillow maps a file into memory, it mixes up the sides of one that lies on its side
    return image


def _unknown(name: str) -> bool:
    """Whether Pillow refuses a format's name, as its package isn't loaded, or as JPEG's reader takes its files."""
    return name in ("HEIF", "JXL", "MPO") and name not in Image.OPEN


def readable(formats: Collection[str] = READ_FORMATS) -> list[str]:
    """Those of the formats that this Pillow and its plugins can open."""
    Image.init()
    return [name for name in formats if name in Image.OPEN]


def is_heic(head: bytes) -> bool:
    """By the brand in the file's head (ISO/IEC 23008-12): HEVC pictures and sequences, or unspecific."""
    return head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS


@functools.cache
def register_heif() -> bool:
    """Teach Pillow HEIC; False where the package is not installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


@functools.cache
def register_jxl() -> bool:
    """Teach Pillow JPEG XL; False where the package is not installed."""
    try:
        import pillow_jxl  # noqa: F401
    except ImportError:
        return False
    return True
