"""What Pillow does in 8 bits only: 16-bit colour samples read from PNG and TIFF, and both formats written whole.

Samples are (H,W,C), C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA; alpha is never premultiplied.
"""

import io
import re
import struct
import sys
import zlib
from collections.abc import Callable, Mapping
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import ImageFileDirectory_v2

ROWS_PER_STRIP = 64
INCH = 0.0254  # m

EXIF_IFD, GPS_IFD, INTEROP_IFD = 0x8769, 0x8825, 0xA005

# TIFF tags (TIFF 6.0, section 8) that describe how the samples lie in the file, not what the picture is.
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIP_OFFSETS, SAMPLES_PER_PIXEL, ROWS, STRIP_BYTES = 273, 277, 278, 279
X_RESOLUTION, Y_RESOLUTION, PLANAR, RESOLUTION_UNIT, PREDICTOR, EXTRA_SAMPLES, ICC = 282, 283, 284, 296, 317, 338, 34675
LAYOUT_TAGS = frozenset(
    {254, 255, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, 266, STRIP_OFFSETS, SAMPLES_PER_PIXEL, ROWS, STRIP_BYTES}
    | {X_RESOLUTION, Y_RESOLUTION, PLANAR, RESOLUTION_UNIT, PREDICTOR, EXTRA_SAMPLES, ICC}
    | {280, 281, 318, 319, 320, 322, 323, 324, 325, 330, 339, 340, 341, 347, 529, 530, 531, 532}
)


def read_samples(image: ImageFile, reopen: Callable[[], ImageFile]) -> NDArray[np.uint16] | None:
    """The 16-bit samples of an opened, not yet loaded picture; None where it has 8 bits or Pillow keeps 16 itself.

    Raises ValueError for 16-bit TIFFs with separate colour planes, of which Pillow keeps 8 bits or makes noise.
    """
    tags = getattr(image, "tag_v2", {})
    if tags.get(PLANAR) == 2 and max(tags.get(BITS, (8,))) > 8:
        raise ValueError("16-bit colour in separate planes is not supported, save it interleaved")
    match = re.fullmatch(r"(LA|RGB|RGBX|RGBA|RGBa);16([BLN])", _rawmode(image))
    if match is None:
        return None
    layout, order = match.groups()
    if layout == "LA":  # four bytes a pixel, big-endian: unpacked as if they were R, G, B, A
        _set_rawmode(image, "RGBA")
        return np.ascontiguousarray(np.asarray(image)).view(">u2").astype(np.uint16)
    # Pillow keeps the high byte of each sample. Told the wrong byte order it keeps the low byte: two passes give both.
    straight = layout.replace("a", "A")  # premultiplied samples as they are: Pillow would divide the high bytes alone
    little = order == "L" or (order == "N" and sys.byteorder == "little")
    with reopen() as twin:
        _set_rawmode(twin, f"{straight};16{'B' if little else 'L'}")
        low = np.asarray(twin)
    _set_rawmode(image, f"{straight};16{order}")
    samples = np.left_shift(np.asarray(image), 8, dtype=np.uint16) | low
    if layout == "RGBa":
        alpha = np.maximum(samples[:, :, 3:], 1) / np.float32(65535)
        samples[:, :, :3] = np.minimum(np.round(samples[:, :, :3] / alpha), 65535)
    return samples


def _rawmode(image: ImageFile) -> str:
    if not image.tile:
        return ""
    args = image.tile[0].args
    return str(args[0]) if isinstance(args, tuple) and args else str(args)


def _set_rawmode(image: ImageFile, rawmode: str) -> None:
    image.tile = [
        tile._replace(args=(rawmode, *tile.args[1:]) if isinstance(tile.args, tuple) else rawmode)
        for tile in image.tile
    ]


def write_png16(
    file: IO[bytes] | io.BytesIO,
    samples: NDArray[np.uint16],
    *,
    exif: bytes | None = None,
    icc_profile: bytes | None = None,
    dpi: tuple[float, float] | None = None,
    info: PngInfo | None = None,
) -> None:
    """Write (H,W,C) uint16 `samples` as a PNG (ISO/IEC 15948), strip by strip; `info`: further chunks."""
    height, width, channels = samples.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]

    def chunk(name: bytes, data: bytes) -> None:
        file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))

    file.write(b"\x89PNG\r\n\x1a\n")
    chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))
    if icc_profile:
        chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc_profile))
    if dpi:
        chunk(b"pHYs", struct.pack(">IIB", round(dpi[0] / INCH), round(dpi[1] / INCH), 1))
    if exif:
        chunk(b"eXIf", exif.removeprefix(b"Exif\0\0"))
    for name, data, *_ in info.chunks if info else ():
        chunk(name, data)
    deflate = zlib.compressobj()
    above = np.zeros((1, width * channels * 2), np.uint8)
    for top in range(0, height, ROWS_PER_STRIP):
        rows = samples[top : top + ROWS_PER_STRIP].astype(">u2").view(np.uint8).reshape(-1, width * channels * 2)
        filtered = rows - np.concatenate([above, rows[:-1]])  # filter type 2, "Up": difference to the row above
        above = rows[-1:]
        chunk(b"IDAT", deflate.compress(np.pad(filtered, ((0, 0), (1, 0)), constant_values=2).tobytes()))
    chunk(b"IDAT", deflate.flush())
    chunk(b"IEND", b"")


def write_tiff(
    file: IO[bytes] | io.BytesIO,
    samples: NDArray[np.uint8] | NDArray[np.uint16],
    *,
    exif: bytes | None = None,
    icc_profile: bytes | None = None,
    dpi: tuple[float, float] | None = None,
    tags: Mapping[int, bytes] | None = None,
) -> None:
    """Write (H,W,C) `samples` as a TIFF 6.0 with deflate and horizontal differences; up to 4 GiB. `tags`: further ones.

    8 bits come here too, because Pillow loses the EXIF directory of compressed TIFFs.
    """
    if samples.dtype == np.uint16 and samples.shape[2] == 2:
        samples = samples[:, :, [0, 0, 0, 1]]  # few programs, Pillow neither, read 16-bit grey with alpha
    height, width, channels = samples.shape
    strips = []
    for top in range(0, height, ROWS_PER_STRIP):
        differences = samples[top : top + ROWS_PER_STRIP].copy()
        differences[:, 1:] -= samples[top : top + ROWS_PER_STRIP, :-1]
        strips.append(zlib.compress(differences.astype(differences.dtype.newbyteorder("<")).tobytes()))
    sizes = [len(strip) for strip in strips]
    directory = ImageFileDirectory_v2()
    for tag, value in _exif_entries(exif).items():
        directory[tag] = value
    directory[WIDTH], directory[HEIGHT] = width, height
    directory[BITS] = (8 * samples.itemsize,) * channels
    directory[COMPRESSION], directory[PREDICTOR] = 8, 2
    directory[PHOTOMETRIC] = 1 if channels < 3 else 2
    directory[SAMPLES_PER_PIXEL], directory[PLANAR], directory[ROWS] = channels, 1, ROWS_PER_STRIP
    directory.tagtype[STRIP_OFFSETS] = directory.tagtype[STRIP_BYTES] = 4  # LONG
    directory[STRIP_OFFSETS] = tuple(sum(sizes[:index]) for index in range(len(sizes)))
    directory[STRIP_BYTES] = tuple(sizes)
    if channels in (2, 4):
        directory[EXTRA_SAMPLES] = 2  # unassociated alpha
    if dpi:
        directory[X_RESOLUTION], directory[Y_RESOLUTION], directory[RESOLUTION_UNIT] = dpi[0], dpi[1], 2
    if icc_profile:
        directory.tagtype[ICC] = 7  # UNDEFINED
        directory[ICC] = icc_profile
    for tag, block in (tags or {}).items():
        directory.tagtype[tag] = 7
        directory[tag] = block
    directory.save(file)  # moves the strip offsets behind itself
    file.writelines(strips)


def _exif_entries(exif: bytes | None) -> dict[int, object]:
    """EXIF as TIFF tags: what describes the picture, its sub-directories as dictionaries."""
    if not exif:
        return {}
    tags = Image.Exif()
    tags.load(exif)
    entries: dict[int, object] = {tag: value for tag, value in tags.items() if tag not in LAYOUT_TAGS}
    for tag in (EXIF_IFD, GPS_IFD):
        if tag in entries:
            entries[tag] = {key: value for key, value in tags.get_ifd(tag).items() if key != INTEROP_IFD}
    return entries
