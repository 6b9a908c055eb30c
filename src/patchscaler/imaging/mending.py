"""Files with a defect that hides no pixel: mended in memory, and the defect named."""

import hashlib
import struct
import warnings
import zlib
from typing import NamedTuple

from patchscaler.imaging.opening import PictureFile, open_picture

PNG_HEAD, JPEG_HEAD, JPEG_END = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\xff\xd9"
# Of a PNG's chunks that need not be understood: these change how it looks.
LOOKS = {b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"sBIT", b"acTL", b"fcTL", b"fdAT"}
FILLERS = (b"", b"\xaa\x55" * 32, b"\x7e\x99\xe7" * 20, b"\x35\xca" * 32)


class Mended(NamedTuple):
    file: PictureFile
    remark: str


def mend(file: PictureFile, max_pixels: int) -> Mended | None:
    """A file that could not be read, mended; None where its defect is another one."""
    try:
        with warnings.catch_warnings(), file.open() as stream:
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata
            head = stream.read(8)
            if head == PNG_HEAD:
                return _without_broken_remarks(file.name, head + stream.read())
            if head.startswith(JPEG_HEAD):
                return _with_end(file.name, head + stream.read(), max_pixels)
    except Exception:  # it can't be read indeed
        return None
    return None


def _without_broken_remarks(name: str, data: bytes) -> Mended | None:
    """A PNG without the additional chunks whose check sums are wrong."""
    kept, broken, place = [data[:8]], set(), 8
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        chunk = data[place : place + length + 12]
        kind, (checked,) = chunk[4:8], struct.unpack(">I", chunk[-4:])
        if zlib.crc32(chunk[4:-4]) == checked or not kind[:1].islower() or kind in LOOKS:
            kept.append(chunk)
        else:
            broken.add(kind.decode("latin-1"))
        place += len(chunk)
    if not broken:
        return None
    remark = f"damaged remarks ({', '.join(sorted(broken))}) left out, every pixel is there"
    return Mended(PictureFile(name, b"".join(kept)), remark)


def _with_end(name: str, data: bytes, max_pixels: int) -> Mended | None:
    """A JPEG that lacks nothing but its end: whatever follows its data then changes no pixel."""
    ends = [PictureFile(name, data + filler + JPEG_END) for filler in FILLERS]
    pixels = set()
    for file in ends:
        with open_picture(file, formats=("JPEG",)) as image:
            # A progressive one may lack whole passes, and no pixel.
            if image.info.get("progressive") or image.width * image.height > max_pixels:
                return None
            pixels.add(hashlib.sha256(image.tobytes()).digest())
    return Mended(ends[0], "its end is missing, every pixel is there") if len(pixels) == 1 else None
