"""Damaged pictures: bits flipped, pieces cut out, doubled, overwritten and exchanged between files of every format.

Number and seed make the same file anywhere.
"""

import io
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from patchscaler.imaging.files import Picture, write_picture
from patchscaler.imaging.opening import register_heif

EXTREMES = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0")
TIFF_KINDS = (None, "tiff_lzw", "tiff_deflate", "jpeg", "packbits")


def originals() -> list[bytes]:
    """Small whole files of every format and of many layouts, with metadata."""
    register_heif()
    noise = np.random.default_rng(0).integers(0, 256, (23, 31, 4), dtype=np.uint8)
    colours = Image.fromarray(noise[..., :3]).resize((62, 46), Image.Resampling.BICUBIC)
    modes = {mode: colours.convert(mode) for mode in ("RGB", "L", "1", "P", "CMYK", "RGBA", "LA")}
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6
    exif.get_ifd(0x8769).update({0x9214: (3, 4, 5, 6), 0xA20E: 1000.0, 0x9286: b"ASCII\0\0\0remark"})
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 30.0, 0.0)})
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" xmlns:GPano="x" GPano:FullPanoWidthPixels="62"/>'
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Title", "A view", zip=True)
    texts.add_itxt("Comment", "of Delft")
    files: list[bytes] = []

    def add(kind: str, mode: str, **options: object) -> None:
        file = io.BytesIO()
        modes[mode].save(file, kind, **options)
        files.append(file.getvalue())

    for mode in ("RGB", "L", "1", "P", "RGBA", "LA"):
        add("PNG", mode, exif=exif, pnginfo=texts, dpi=(300, 300))
    for mode in ("RGB", "L", "CMYK"):
        add("JPEG", mode, exif=exif, xmp=xmp, comment=b"remark", quality=80)
    add("JPEG", "RGB", progressive=True)
    for kind in TIFF_KINDS:
        add("TIFF", "RGB", compression=kind, exif=exif)
    add("TIFF", "1", compression="group4")
    add("TIFF", "CMYK")
    add("WEBP", "RGB", exif=exif, xmp=xmp)
    add("WEBP", "RGBA", lossless=True)
    for kind in ("AVIF", "HEIF"):
        if kind in Image.SAVE:
            add(kind, "RGB", exif=exif)
    for kind, mode in (("GIF", "P"), ("BMP", "RGB"), ("BMP", "P"), ("JPEG2000", "RGB"), ("PPM", "RGB"), ("PPM", "1")):
        add(kind, mode)
    for kind, mode in (("TGA", "RGBA"), ("TGA", "P"), ("PCX", "P"), ("ICO", "RGBA"), ("SGI", "RGB"), ("DDS", "RGBA")):
        add(kind, mode, **({"compression": "tga_rle"} if (kind, mode) == ("TGA", "RGBA") else {}))
    if "QOI" in Image.SAVE:
        add("QOI", "RGB")
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        add(kind, "RGB", save_all=True, append_images=[modes["RGB"].rotate(90)])
    return [*files, *_deep()]


def _deep() -> list[bytes]:
    """16 bits, as we write them."""
    deep = Picture(np.random.default_rng(0).random((1, 3, 20, 30), np.float32), bits=16)
    files = []
    with tempfile.TemporaryDirectory() as folder:
        for like in (deep, Picture(deep.pixels, deep.pixels[:, :1], bits=16), Picture(deep.pixels, bits=16, grey=True)):
            for suffix in (".png", ".tif"):
                write_picture(Path(folder) / f"a{suffix}", like.pixels, like=like, history="made")
                files.append((Path(folder) / f"a{suffix}").read_bytes())
    return files


def damaged(files: list[bytes], seed: int, number: int) -> bytes:
    """The file of this number: an original with one to four kinds of damage."""
    random = np.random.default_rng((seed, number))
    data = bytearray(files[random.integers(len(files))])
    for _ in range(random.integers(1, 5)):
        if len(data) < 4:
            break
        # Half of the damage is done to the first bytes, where formats say what they are.
        start = int(random.integers(min(len(data), 200) if random.random() < 0.5 else len(data)))
        length = int(random.integers(1, 1 + min(64, len(data) - start)))
        kind = random.integers(7)
        if kind == 0:
            for place in random.integers(start, min(start + 64, len(data)), random.integers(1, 9)):
                data[place] ^= 1 << int(random.integers(8))
        elif kind == 1:
            del data[start:]
        elif kind == 2:
            del data[start : start + length]
        elif kind == 3:
            data[start:start] = data[start : start + length]
        elif kind == 4:
            data[start : start + length] = random.bytes(length)
        elif kind == 5:  # extreme numbers
            data[start : start + 4] = random.choice(EXTREMES)
        else:
            other = files[random.integers(len(files))]
            place = int(random.integers(len(other)))
            data[start : start + length] = other[place : place + length]
    return bytes(data)
