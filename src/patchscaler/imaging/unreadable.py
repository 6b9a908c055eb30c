"""Files that we don't read: what each is, and what to do, by the first bytes and the header."""

import io
import struct
import warnings
from typing import IO, Protocol, cast, runtime_checkable

from PIL.TiffImagePlugin import ImageFileDirectory_v2

# On a damaged file Pillow and its plugins raise whatever their code stumbles over: AssertionError, OverflowError, ...
DECODE_ERRORS = (Exception,)
RAW_SUFFIXES = frozenset(
    {".dng", ".nef", ".nrw", ".cr2", ".cr3", ".arw", ".sr2", ".orf", ".rw2", ".pef", ".srw", ".raf"}
)
JXL = "a JPEG XL picture, which needs one more package; pip install 'patchscaler[jxl]', or save it as PNG or JPEG"
# The first bytes of a file, from a place on: what it is, and the cure.
SIGNATURES = (
    (0, b"%PDF", "a PDF; save its page as PNG"),
    (0, b"%!PS", "a PostScript file; save its page as PNG"),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript file; save its page as PNG"),
    (0, b"gimp xcf", "a GIMP file with layers; export it as PNG or TIFF"),
    (0, b"v/1\x01", "an OpenEXR file of floating-point colours; save it as PNG or TIFF of 16 bits"),
    (0, b"#?RADIANCE", "a Radiance HDR file of floating-point colours; save it as PNG or TIFF of 16 bits"),
    (0, b"8BPB", "a large Photoshop file (PSB); save a flattened copy as TIFF or PNG"),
    (0, b"PK\x03\x04", "an archive or document; unpack it, or export its picture as PNG"),
    (0, b"\x1aE\xdf\xa3", "a film; take a picture from it first (a film editor or ffmpeg does)"),
    (4, b"ftypqt", "a film; take a picture from it first (a film editor or ffmpeg does)"),
    (4, b"ftypisom", "a film; take a picture from it first (a film editor or ffmpeg does)"),
    (4, b"ftypmp4", "a film; take a picture from it first (a film editor or ffmpeg does)"),
    (4, b"ftypcrx", "a camera's raw file; develop it first, and give the TIFF, PNG or JPEG"),
    (0, b"FUJIFILMCCD-RAW", "a camera's raw file; develop it first, and give the TIFF, PNG or JPEG"),
    (0, b"\xff\x0a", JXL),
    (0, b"\0\0\0\x0cJXL ", JXL),
    (0, b"version https://git-lfs", "not the picture but a pointer to it; fetch it with git lfs pull"),
)
TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
COMPRESSION, BITS, SAMPLE_FORMAT, PLANAR = 259, 258, 339, 284
# What libtiff may know, and this one may lack (the codes are of libtiff's tiff.h).
COMPRESSIONS = {50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL", 34887: "LERC", 34925: "LZMA", 34712: "JPEG 2000"}


@runtime_checkable
class File(Protocol):
    """An `opening.PictureFile`."""

    def open(self) -> io.BufferedIOBase: ...
    def head(self) -> bytes: ...


def what_it_is(file: File) -> str | None:
    """Words and a cure for a file that could not be opened or decoded; None where all that is known is that."""
    try:
        head = file.head()
        if head[:4] in TIFF_HEADS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata
                return _about_tiff(file)
        if head[:4] == b"8BPS":
            return _about_photoshop(head)
    except Exception:  # a damaged header, of which nothing can be said
        return None
    for start, signature, words in SIGNATURES:
        if head[start : start + len(signature)] == signature:
            return words
    if b"<svg" in head[:1024].lower():
        return "a drawing (SVG); save it as PNG, in the size you want"
    if head.lstrip()[:14].lower() == b"<!doctype html" or head.lstrip()[:5].lower() == b"<html":
        return "a web page, not the picture; download the picture itself"
    return None


def never_decoded(compression: int) -> bool:
    """Whether a TIFF's compression is one that Pillow's libtiff lacks, which would print words of its own."""
    return compression in (34887, 50001, 50002)


def _about_tiff(file: File) -> str | None:
    with file.open() as stream:
        header = stream.read(16 if file.head()[2:4] in (b"+\0", b"\0+") else 8)  # BigTIFF's is longer
        tags = ImageFileDirectory_v2(header)
        stream.seek(tags.next)
        tags.load(cast(IO[bytes], stream))
        bits, kind = max(tags.get(BITS, (1,))), max(tags.get(SAMPLE_FORMAT, (1,)))
        compression = tags.get(COMPRESSION, 1)
    save = "save it as PNG, or as TIFF of 8 or 16 bits"
    if kind == 3:
        return f"a TIFF of floating-point numbers ({bits} bits), which have no fixed black and white; {save}"
    if kind in (5, 6):
        return f"a TIFF of complex numbers; {save}"
    if kind == 2:
        return f"a TIFF of signed numbers; {save}"
    if bits > 16:
        return f"a TIFF of {bits} bits a sample; {save}"
    if compression in COMPRESSIONS:
        return f"a TIFF with {COMPRESSIONS[compression]} inside, which is not read here; save it with LZW or as PNG"
    if tags.get(PLANAR) == 2 and bits > 8:
        return "a TIFF whose 16-bit colours lie in separate planes, which are not read here; save it interleaved"
    return None


def _about_photoshop(head: bytes) -> str | None:
    (depth, mode) = struct.unpack(">2H", head[22:26])
    if depth not in (1, 8):
        return f"a Photoshop file of {depth} bits a channel, of which only 8 are read; save a copy as TIFF or PNG"
    if mode not in (0, 1, 2, 3, 4, 9):
        return "a Photoshop file in a colour mode that is not read here; save a flattened copy as TIFF or PNG"
    return None
