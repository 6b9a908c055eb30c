"""Files as cameras, phones and programs write them, made by other programs; file_table.py enlarges them."""

import struct
import subprocess
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image, ImageCms

from icc_profiles import ADOBE_RGB, DISPLAY_P3, PROPHOTO, grey_profile, rgb_profile

HEIGHT, WIDTH = 24, 36


def samples(channels: int, depth: type[np.uint8] | type[np.uint16] = np.uint8) -> np.ndarray:
    """(H,W,C): colours that change slowly, and an alpha (last of 2 or 4) from clear to opaque."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] / (HEIGHT, WIDTH)[0]
    planes = [0.2 + 0.5 * x / 1.5, 0.25 + 0.6 * y, 0.7 - 0.3 * x / 1.5 - 0.2 * y]
    planes = planes[:1] if channels < 3 else planes
    if channels in (2, 4):
        planes.append(np.clip(1.6 * x / 1.5 - 0.3, 0, 1))
    return np.round(np.stack(planes, axis=2) * np.iinfo(depth).max).astype(depth)


def pil(mode: str) -> Image.Image:
    return Image.fromarray(samples(4 if mode[-1] in "Aa" and mode not in ("LA", "PA") else 3)).convert(mode)


# --- other programs


def tool(*command: object) -> bytes:
    return subprocess.run(list(map(str, command)), capture_output=True, check=True, timeout=60).stdout


def via(source: Image.Image | np.ndarray, command: Callable[[Path, Path], list[object]]) -> Callable[[Path], object]:
    """Makes a file by a command line, from a PNG or (16 bits) TIFF of `source`."""

    def make(path: Path) -> None:
        if isinstance(source, np.ndarray):
            first = path.with_name("source.tif")
            extra = {"extrasamples": ["unassalpha"]} if source.shape[2] in (2, 4) else {}
            tifffile.imwrite(
                first, source.squeeze(), photometric="rgb" if source.shape[2] > 2 else "minisblack", **extra
            )
        else:
            first = path.with_name("source.png")
            source.save(first)
        tool(*command(first, path))
        first.unlink()

    return make


def magick(source: Image.Image | np.ndarray, *options: object, prefix: str = "") -> Callable[[Path], object]:
    return via(source, lambda first, path: ["convert", first, *options, f"{prefix}{path}"])


def tagged(make: Callable[[Path], object], *tags: str) -> Callable[[Path], object]:
    """The file with tags set by exiftool."""

    def run(path: Path) -> None:
        make(path)
        tool("exiftool", "-overwrite_original", "-q", "-m", *tags, path)

    return run


# --- the files


@dataclass(frozen=True)
class Case:
    """A file, how it is made, what is special about it, and the suffix of the result or why it shall be refused."""

    name: str
    maker: str
    special: str
    make: Callable[[Path], object]
    out: str = ".png"
    refused: str = ""
    upright: tuple[int, int] = (HEIGHT, WIDTH)
    keeps: tuple[str, ...] = ()  # of FACTS, and "profile", "alpha", "16 bits", "grey"
    looks: Image.Image | None = None  # where ImageMagick misreads the file


def save(image: Image.Image, **options: Any) -> Callable[[Path], object]:
    return lambda path: image.save(path, **options)


def tiff(array: np.ndarray, **options: Any) -> Callable[[Path], object]:
    return lambda path: tifffile.imwrite(path, array, **{"photometric": "rgb", **options})


def animated(**options: Any) -> Callable[[Path], object]:
    pages = [pil("RGB"), pil("RGB").rotate(180)]
    return save(pages[0], save_all=True, append_images=pages[1:], **options)


def oriented(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", value
    exif.get_ifd(0x8769).update({0x9003: "2024:05:06 07:08:09", 0x829A: 0.01})
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 30.0, 0.0)})
    return exif.tobytes()


def wide(values: tuple[list[list[float]], float]) -> dict[str, Any]:
    return {"icc_profile": rgb_profile(*values)}


CAMERA = ("Make", "DateTimeOriginal", "GPSLatitude", "ExposureTime")
LABELS = [
    "-Make=Maker",
    "-XMP-photoshop:City=Delft",
    "-IPTC:Caption-Abstract=A caption",
    "-DateTimeOriginal=2024:05:06 07:08:09",
]
LABELLED = ("Make", "City", "Caption-Abstract", "DateTimeOriginal")
DEEP = np.uint16


def pillow_files() -> list[Case]:
    made = "Pillow"
    reduced = pil("RGB")
    reduced.encoderinfo = {}
    copy = pil("RGB").resize((WIDTH // 2, HEIGHT // 2))
    copy.encoderinfo = {"tiffinfo": {254: 1}}
    return [
        Case("rgb.png", made, "RGB, 300 dpi", save(pil("RGB"), dpi=(300, 300)), keeps=("XResolution",)),
        Case("phone6.jpg", made, "JPEG on its side (orientation 6), GPS", save(pil("RGB"), exif=oriented(6), quality=95), ".jpg", upright=(WIDTH, HEIGHT), keeps=CAMERA),
        Case("phone3.jpg", made, "JPEG upside down (3)", save(pil("RGB"), exif=oriented(3), quality=95), ".png", keeps=CAMERA),
        Case("mirror5.webp", made, "WebP mirrored and on its side (5)", save(pil("RGB"), exif=oriented(5), lossless=True), ".webp", upright=(WIDTH, HEIGHT), keeps=CAMERA),
        Case("grey.png", made, "grey", save(pil("L")), keeps=("grey",)),
        Case("grey_alpha.png", made, "grey with alpha", save(Image.fromarray(samples(2))), keeps=("grey", "alpha")),
        Case("bilevel.png", made, "black and white, 1 bit", save(pil("L").point(lambda v: 255 * (v > 120)).convert("1")), keeps=("grey",)),
        Case("palette.png", made, "palette of 256 colours", save(pil("RGB").quantize(256))),
        Case("palette_clear.png", made, "palette, one colour clear", save(pil("RGB").quantize(8), transparency=0), keeps=("alpha",)),
        Case("keyed.png", made, "RGB, one colour clear (tRNS)", save(pil("RGB"), transparency=tuple(map(int, samples(3)[0, 0]))), keeps=("alpha",)),
        Case("rgba.png", made, "RGB with alpha", save(pil("RGBA")), keeps=("alpha",)),
        Case("to_jpeg.png", made, "RGB with alpha, to JPEG", save(pil("RGBA")), ".jpg"),
        Case("grey16.png", made, "grey, 16 bits", save(Image.fromarray(samples(1, DEEP)[:, :, 0])), keeps=("grey", "16 bits")),
        Case("cmyk.jpg", made, "CMYK, Adobe's inverted JPEG", save(pil("CMYK"), quality=95), ".jpg"),
        Case("lab.tif", made, "CIE L*a*b*", save(ImageCms.profileToProfile(pil("RGB"), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB")), looks=pil("RGB")),
        Case("remark.jpg", made, "JPEG 4:2:0 with a remark", save(pil("RGB"), comment="A remark", subsampling=2, quality=95), ".jpg", keeps=("Comment",)),
        Case("grey_gamma.jpg", made, "grey with a profile of gamma 1.8", save(pil("L"), icc_profile=grey_profile(1.8), quality=95), ".jpg", keeps=("grey", "profile")),
        Case("p3.jpg", made, "Display P3, as phones write", save(pil("RGB"), quality=95, **wide(DISPLAY_P3)), ".jpg", keeps=("profile",)),
        Case("p3_clear.webp", made, "Display P3 with alpha", save(pil("RGBA"), lossless=True, **wide(DISPLAY_P3)), ".webp", keeps=("profile", "alpha")),
        Case("adobe.png", made, "Adobe RGB", save(pil("RGB"), **wide(ADOBE_RGB)), ".tif", keeps=("profile",)),
        Case("broken_profile.png", made, "a profile that is none", save(pil("RGB"), icc_profile=b"not a profile" * 20)),
        Case("still.gif", made, "GIF, one picture", save(pil("RGB").quantize(64))),
        Case("moving.gif", made, "animated GIF", animated(), refused="2 frames"),
        Case("moving.webp", made, "animated WebP", animated(), refused="2 frames"),
        Case("moving.png", made, "animated PNG", animated(), refused="2 frames"),
        Case("pages.tif", made, "TIFF of two pages", animated(), refused="2 pages"),
        Case("reduced.tif", made, "TIFF with a reduced copy as second page", save(reduced, save_all=True, append_images=[copy])),
        Case("twin.mpo", made, "a phone's JPEG with a second picture behind it", save(pil("RGB"), format="MPO", save_all=True, append_images=[pil("RGB")], quality=95), ".jpg"),
        Case("bitmap.bmp", made, "BMP", save(pil("RGB"))),
        Case("picture.jp2", made, "JPEG 2000", save(pil("RGB"))),
        Case("picture.tga", made, "Targa with alpha", save(pil("RGBA")), keeps=("alpha",)),
        Case("picture.avif", made, "AVIF with EXIF, on its side (8)", save(pil("RGB"), exif=oriented(8), quality=95, subsampling="4:4:4"), ".jpg", upright=(WIDTH, HEIGHT), keeps=CAMERA),
        Case("lzw.tif", made, "TIFF, LZW, 150 dpi, EXIF", tagged(save(pil("RGB"), compression="tiff_lzw", dpi=(150, 150)), "-Make=Maker", "-ExposureTime=0.01"), ".tif", keeps=("Make", "ExposureTime", "XResolution")),
        Case("float.tif", made, "TIFF of floating-point numbers", save(pil("L").convert("F")), refused="floating-point numbers"),
    ]  # fmt: skip


def other_files() -> list[Case]:
    rgb, rgba = pil("RGB"), pil("RGBA")
    deep, deep_alpha, deep_grey = samples(3, DEEP), samples(4, DEEP), samples(1, DEEP)
    cmyk = "/usr/share/color/icc/ghostscript/default_cmyk.icc"
    srgb = "/usr/share/color/icc/ghostscript/srgb.icc"
    quality = ["-sampling-factor", "1x1", "-quality", "95"]
    magicks = [
        Case("deep.png", "", "RGB, 16 bits", magick(deep), keeps=("16 bits",)),
        Case("deep_alpha.png", "", "RGB with alpha, 16 bits", magick(deep_alpha), keeps=("16 bits", "alpha")),
        Case("interlaced.png", "", "interlaced PNG, 118 dots per cm", magick(rgb, "-interlace", "PNG", "-units", "PixelsPerCentimeter", "-density", "118"), keeps=("XResolution",)),
        Case("few.png", "", "palette of 4 colours, 2 bits", magick(rgb, "+dither", "-colors", "4")),
        Case("progressive.jpg", "", "progressive JPEG, 72 dpi", magick(rgb, "-interlace", "JPEG", "-units", "PixelsPerInch", "-density", "72", *quality), ".jpg", keeps=("XResolution",)),
        Case("deep_lzw.tif", "", "TIFF, 16 bits, LZW", magick(deep, "-compress", "LZW"), ".tif", keeps=("16 bits",)),
        Case("deep_big_endian.tif", "", "TIFF, 16 bits, big-endian, deflate", magick(deep, "-endian", "MSB", "-compress", "Zip"), ".tif", keeps=("16 bits",)),
        Case("jpeg_inside.tif", "", "TIFF, JPEG inside", magick(rgb, "-compress", "JPEG", "-quality", "95"), ".tif"),
        Case("fax.tif", "", "TIFF, fax group 4", magick(rgb, "-threshold", "50%", "-compress", "Group4"), ".tif", keeps=("grey",)),
        Case("planes16.tif", "", "TIFF, 16 bits, separate planes", magick(deep, "-interlace", "Plane"), refused="separate planes"),
        Case("cmyk_profile.tif", "", "CMYK with a press profile", magick(rgb, "-profile", srgb, "-profile", cmyk)),
        Case("cmyk16.tif", "", "CMYK, 16 bits", magick(rgb, "-colorspace", "CMYK", "-depth", "16")),
        Case("layers.psd", "", "Photoshop, flattened picture", magick(rgb)),
        Case("map.ppm", "", "PPM, 16 bits (read as 8)", magick(deep)),
        Case("picture.pcx", "", "PCX", magick(rgb)),
        Case("icon.ico", "", "Windows icon", magick(rgba), keeps=("alpha",)),
    ]  # fmt: skip
    tiffs = [
        Case("premultiplied.tif", "", "8 bits, premultiplied alpha", tiff(premultiplied(samples(4)), extrasamples=["assocalpha"]), ".tif", keeps=("alpha",)),
        Case("associated16.tif", "", "16 bits, premultiplied alpha", tiff(premultiplied(deep_alpha), extrasamples=["assocalpha"]), ".tif", keeps=("16 bits", "alpha")),
        Case("big.tif", "", "BigTIFF, 16 bits", tiff(deep, bigtiff=True), ".tif", keeps=("16 bits",)),
        Case("tiled16.tif", "", "grey, 16 bits, tiles", tiff(deep_grey[:, :, 0], photometric="minisblack", tile=(16, 16)), ".tif", keeps=("16 bits", "grey")),
        Case("white_is_zero.tif", "", "grey, 16 bits, white is 0", tiff(65535 - deep_grey[:, :, 0], photometric="miniswhite"), ".tif", keeps=("16 bits", "grey")),
        Case("planes.tif", "", "8 bits, separate planes", tiff(samples(3).transpose(2, 0, 1), planarconfig="separate"), ".tif"),
        Case("prophoto16.tif", "", "ProPhoto RGB, 16 bits", tiff(deep, iccprofile=rgb_profile(*PROPHOTO)), ".tif", keeps=("16 bits", "profile")),
        Case("float32.tif", "", "three floating-point colours", tiff(deep / np.float32(65535)), refused="floating-point numbers"),
        Case("volume.tif", "", "a stack of 5 slices", tiff(np.zeros((5, 20, 30), np.uint8), photometric="minisblack"), refused="5 pages"),
    ]  # fmt: skip
    jpeg, webp, png = save(rgb, quality=95), save(rgb, lossless=True), save(rgb)
    sideways = tagged(jpeg, *LABELS, "-Orientation#=6")
    exiftools = [
        Case("press.jpg", "", "EXIF, XMP, IPTC", tagged(jpeg, *LABELS), ".jpg", keeps=LABELLED),
        Case("press_side.jpg", "", "the same on its side, orientation in XMP too", tagged(sideways, "-XMP-tiff:Orientation#=6"), ".jpg", upright=(WIDTH, HEIGHT), keeps=LABELLED),
        Case("press.png", "", "EXIF, XMP, IPTC", tagged(png, *LABELS), ".png", keeps=("Make", "City", "DateTimeOriginal")),
        Case("press_to_tif.jpg", "", "EXIF, XMP, IPTC, to TIFF", tagged(jpeg, *LABELS), ".tif", keeps=LABELLED),
        Case("press_to_png.jpg", "", "EXIF, XMP, IPTC, to PNG", tagged(jpeg, *LABELS), ".png", keeps=LABELLED),
        Case("press.webp", "", "EXIF, XMP", tagged(webp, *LABELS), ".webp", keeps=("Make", "City", "DateTimeOriginal")),
        Case("press.tif", "", "EXIF, XMP, IPTC", tagged(png_to_tiff, *LABELS), ".tif", keeps=LABELLED),
        Case("raw.dng", "", "a camera's raw file, by name", tagged(png_to_tiff, "-DNGVersion=1 4 0 0"), refused="raw file"),
        Case("raw_called.tif", "", "a raw file called TIFF", tagged(png_to_tiff, "-DNGVersion=1 4 0 0"), refused="raw file"),
    ]  # fmt: skip
    heifs = [
        Case("phone.heic", "", "HEIC", via(rgb, lambda first, path: ["heif-enc", "-q", "95", "-p", "chroma=444", first, "-o", path]), ".jpg"),
        Case("phone_clear.heic", "", "HEIC with alpha", via(rgba, lambda first, path: ["heif-enc", "-q", "95", first, "-o", path]), keeps=("alpha",)),
        Case("phone10.heic", "", "HEIC, 10 bits (read as 8)", via(deep_png, lambda first, path: ["heif-enc", "-b", "10", "-q", "95", first, "-o", path])),
        Case("phone_exif.heic", "", "HEIC with EXIF and Display P3", save_heif, ".jpg", keeps=("Make", "profile")),
        Case("film.avif", "", "AVIF, 10 bits (read as 8)", via(rgb, lambda first, path: ["avifenc", "-d", "10", "--min", "0", "--max", "8", "-y", "444", first, path])),
    ]  # fmt: skip
    others = [
        Case("vector.svg", "", "SVG", lambda path: path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>"), refused="a drawing"),
        Case("page.pdf", "", "PDF", save(rgb), refused="a PDF"),
        Case("page.eps", "", "EPS", save(rgb), refused="a PostScript file"),
        Case("film.mpg", "", "bytes that are no picture", lambda path: path.write_bytes(b"\0\0\1\xba" * 99), refused="not a picture or of an unknown format"),
    ]  # fmt: skip
    damaged = [
        Case("cut.jpg", "", "cut off in the middle", cut(save(rgb, quality=95), 0.9), refused="damaged"),
        Case("cut.png", "", "cut off in the middle", cut(save(rgb), 0.5), refused="damaged"),
        Case("cut.heic", "", "cut off in the middle", cut(save_heif, 0.5), refused="damaged|not a picture"),
        Case("empty.jpg", "", "0 bytes", lambda path: path.touch(), refused="empty"),
        Case("text.jpg", "", "text called JPEG", lambda path: path.write_text("text" * 99), refused="not a picture"),
        Case("bomb.png", "", "a header that promises 30,000 x 30,000 pixels", bomb, refused="more than the limit"),
    ]
    groups = {
        "ImageMagick": magicks,
        "tifffile": tiffs,
        "exiftool": exiftools,
        "libheif, libavif": heifs,
        "others": others,
        "damaged": damaged,
    }
    return [Case(**{**vars(case), "maker": maker}) for maker, cases in groups.items() for case in cases]


deep_png = Image.fromarray(samples(3))


def premultiplied(array: np.ndarray) -> np.ndarray:
    alpha = array[:, :, 3:] / np.iinfo(array.dtype).max
    return np.concatenate([np.round(array[:, :, :3] * alpha).astype(array.dtype), array[:, :, 3:]], axis=2)


def png_to_tiff(path: Path) -> None:
    pil("RGB").save(path, format="TIFF")


def save_heif(path: Path) -> None:
    from pillow_heif import register_heif_opener

    register_heif_opener()
    pil("RGB").save(path, quality=95, chroma=444, exif=oriented(1), **wide(DISPLAY_P3))


def cut(make: Callable[[Path], object], share: float) -> Callable[[Path], object]:
    def run(path: Path) -> None:
        make(path)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return run


def bomb(path: Path) -> None:
    pil("RGB").save(path)
    data = path.read_bytes()
    head = b"IHDR" + struct.pack(">II", 30_000, 30_000) + data[24:29]
    path.write_bytes(data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:])
