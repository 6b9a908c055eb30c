"""Reading what others wrote: every mode looks as it should, every bad file is one clear error."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from arrays import assert_close
from made_pictures import assert_same, exif_with, picture_of, planes, samples_of
from patchscaler.errors import ImageReadError
from patchscaler.imaging.files import find_frames, read_picture, write_picture
from patchscaler.imaging.sources import picture_from

# --- reading what others wrote


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"compression": "zlib", "predictor": True}])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("layout", [{}, {"rowsperstrip": 2}, {"tile": (16, 16)}])
def test_sixteen_bit_tiffs_of_another_writer(tmp_path, options, order, channels, layout):
    samples = samples_of(37, 21, channels, np.uint16)
    photometric = "minisblack" if channels == 1 else "rgb"
    extra = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    tifffile.imwrite(
        tmp_path / "in.tif", samples.squeeze(), photometric=photometric, byteorder=order, **extra, **options, **layout
    )
    assert_same(read_picture(tmp_path / "in.tif"), picture_of(samples))


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_sixteen_bit_separate_planes_are_refused_rather_than_misread(tmp_path, compression):
    samples = samples_of(9, 7, 3, np.uint16).transpose(2, 0, 1)
    options = {"photometric": "rgb", "planarconfig": "separate", "compression": compression}
    tifffile.imwrite(tmp_path / "in.tif", samples, **options)
    with pytest.raises(ImageReadError, match="separate planes"):
        read_picture(tmp_path / "in.tif")
    tifffile.imwrite(tmp_path / "in.tif", (samples >> 8).astype(np.uint8), **options)
    assert read_picture(tmp_path / "in.tif").size == (9, 7)


def test_white_is_zero_is_inverted(tmp_path):
    samples = samples_of(4, 6, 1, np.uint16)
    tifffile.imwrite(tmp_path / "in.tif", samples[:, :, 0], photometric="miniswhite")
    assert_same(read_picture(tmp_path / "in.tif"), picture_of(65535 - samples))


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_our_tiffs_are_read_by_another_reader(tmp_path, depth, channels):
    picture = picture_of(samples_of(130, 9, channels, depth))
    write_picture(tmp_path / "out.tif", picture.pixels, like=picture)
    read = tifffile.imread(tmp_path / "out.tif").reshape(130, 9, -1)
    expected = samples_of(130, 9, channels, depth)
    np.testing.assert_array_equal(read, expected[:, :, [0, 0, 0, 1]] if read.shape[2] > channels else expected)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_our_sixteen_bit_pngs_are_read_by_pillow(tmp_path, channels):
    samples = samples_of(130, 9, channels, np.uint16)
    picture = picture_of(samples)
    write_picture(tmp_path / "out.png", picture.pixels, like=picture)
    with Image.open(tmp_path / "out.png") as image:
        image.load()
        read = np.asarray(image).reshape(130, 9, -1)
    if channels > 1:  # Pillow shows the high bytes, grey with alpha as RGBA
        samples = (samples[:, :, [0, 0, 0, 1]] if channels == 2 else samples) >> 8
    np.testing.assert_array_equal(read, samples)
    assert read_picture(tmp_path / "out.png").mode == {1: "I;16", 2: "LA;16", 3: "RGB;16", 4: "RGBA;16"}[channels]


def test_sixteen_bit_png_with_a_transparent_colour(tmp_path):
    samples = samples_of(5, 4, 3, np.uint16)
    write_picture(tmp_path / "in.png", planes(samples), like=picture_of(samples))
    key = struct.pack(">3H", *samples[2, 3])
    chunk = struct.pack(">I", 6) + b"tRNS" + key + struct.pack(">I", zlib.crc32(b"tRNS" + key))
    data = (tmp_path / "in.png").read_bytes()
    (tmp_path / "in.png").write_bytes(data.replace(data[33:41], chunk + data[33:41], 1))  # behind IHDR
    read = read_picture(tmp_path / "in.png")
    assert read.bits == 16
    assert np.argwhere(read.alpha == 0).tolist() == [[0, 0, 2, 3]]
    assert_close(read.pixels, planes(samples))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_png_modes_look_as_pillow_shows_them(tmp_path, mode):
    image = Image.fromarray(samples_of(11, 13, 4)).convert("RGB" if mode in "1LP" else "RGBA").convert(mode)
    image.save(tmp_path / "in.png")
    read = read_picture(tmp_path / "in.png")
    expected = np.asarray(image.convert("RGBA"))
    assert_close(read.pixels, planes(expected)[:, :3])
    assert (read.mode, read.grey, read.alpha is not None) == (mode, mode in ("1", "L", "LA"), "A" in mode)


@pytest.mark.parametrize(("mode", "key"), [("P", 3), ("P", bytes(range(0, 250, 5))), ("L", 7), ("RGB", (9, 9, 9))])
def test_transparent_colours_and_palettes_become_alpha(tmp_path, mode, key):
    samples = samples_of(16, 16, 3) % 10
    samples[4, 5], samples[5, 4] = 9, 7
    image = Image.fromarray(samples).convert(mode, palette=Image.Palette.ADAPTIVE)
    image.save(tmp_path / "in.png", transparency=key)
    with Image.open(tmp_path / "in.png") as saved:
        expected = planes(np.asarray(saved.convert("RGBA")))
    read = read_picture(tmp_path / "in.png")
    assert_close(np.concatenate([read.pixels, read.alpha], 1), expected)
    assert read.alpha.min() < 1


def test_cmyk_becomes_rgb_and_loses_its_profile(tmp_path):
    image = Image.fromarray(samples_of(8, 8, 3)).resize((32, 32)).convert("CMYK")
    image.save(tmp_path / "in.tif", icc_profile=b"not a profile")
    read = read_picture(tmp_path / "in.tif")
    assert_close(read.pixels, planes(np.asarray(image.convert("RGB"))))
    assert (read.mode, read.icc_profile) == ("CMYK", None)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png8", "png16", "tif8", "tif16", "tifzip", "pil"])
def test_orientation_is_applied_once_and_reset(tmp_path, orientation, kind):
    depth = np.uint16 if "16" in kind or kind == "tifzip" else np.uint8
    samples = samples_of(5, 7, 3, depth)
    upright = picture_of(np.asarray(apply_orientation(samples, orientation)))
    path = tmp_path / f"in.{kind[:3]}"
    if kind.startswith("tif"):
        packing = {"compression": "zlib"} if kind == "tifzip" else {}
        tag = [(274, "H", 1, orientation, True)]
        tifffile.imwrite(path, samples, photometric="rgb", extratags=tag, metadata=None, **packing)
    else:
        path = path.with_suffix(".png")
        like = picture_of(samples, exif=exif_with(orientation).tobytes())
        write_picture(path, like.pixels, like=like)
    if kind == "pil":
        with Image.open(path) as image:
            assert_same(picture_from(image), upright)
            assert_same(picture_from(image), upright)  # the caller's image is as it was
    read = read_picture(path)
    assert_same(read, upright)
    write_picture(tmp_path / "again.png", read.pixels, like=read)
    assert_same(read_picture(tmp_path / "again.png"), upright)


def apply_orientation(samples: np.ndarray, orientation: int) -> np.ndarray:
    """By Pillow, byte by byte."""
    halves = [np.ascontiguousarray(samples).view(np.uint8)[..., i :: samples.itemsize] for i in range(samples.itemsize)]
    turned = []
    for half in halves:
        image = Image.fromarray(np.ascontiguousarray(half.reshape(*samples.shape)))
        image.getexif()[0x0112] = orientation
        turned.append(np.asarray(ImageOps.exif_transpose(image)))
    return np.stack(turned, -1).reshape(*turned[0].shape[:2], -1).view(samples.dtype)


def test_a_damaged_exif_block_does_not_refuse_the_picture(tmp_path):
    Image.fromarray(samples_of(6, 6, 3)).save(tmp_path / "in.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert read_picture(tmp_path / "in.jpg").exif is None


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_premultiplied_tiffs_become_straight(tmp_path, order, depth):
    straight, peak = samples_of(9, 7, 4, depth), np.iinfo(depth).max
    straight[..., 3] = np.maximum(straight[..., 3], peak // 4)  # below, few steps of the colours are left
    alpha = straight[..., 3:] / peak
    stored = np.concatenate([np.round(straight[..., :3] * alpha).astype(depth), straight[..., 3:]], axis=2)
    tifffile.imwrite(tmp_path / "in.tif", stored, photometric="rgb", extrasamples=["assocalpha"], byteorder=order)
    assert_same(read_picture(tmp_path / "in.tif"), picture_of(straight), tolerance=4 / peak)


def test_lab_and_deep_cmyk_become_rgb(tmp_path):
    image = Image.fromarray(samples_of(8, 8, 3)).resize((32, 32))
    spaces = [ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")]
    ImageCms.profileToProfile(image, *spaces, outputMode="LAB").save(tmp_path / "lab.tif")
    read = read_picture(tmp_path / "lab.tif")
    assert read.mode == "LAB"
    assert np.abs(read.pixels - planes(np.asarray(image))).mean() < 0.01
    cmyk = np.asarray(image.convert("CMYK"))
    tifffile.imwrite(tmp_path / "cmyk.tif", cmyk.astype(np.uint16) * 257, photometric="separated")
    read = read_picture(tmp_path / "cmyk.tif")
    assert (read.mode, read.bits) == ("CMYK;16", 8)
    assert_close(read.pixels, planes(np.asarray(image.convert("RGB"))), atol=1.01 / 255, rtol=0)


# --- files that cannot be read


def bomb() -> bytes:
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    packed = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def encoded(kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(samples_of(64, 64, 3)).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"just some words\n" * 50, "not a picture"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (encoded("PNG")[:5000], "damaged"),
        (encoded("JPEG")[:2000], "damaged"),
        (encoded("WEBP")[:1000], "PNG"),
        (encoded("TIFF")[:5000], "damaged"),
        (encoded("TIFF", compression="tiff_lzw")[:5000], "PNG"),
        (encoded("PNG").replace(struct.pack(">II", 64, 64), struct.pack(">II", 0, 64), 1), "PNG"),
        (bomb(), "30000x30000 is more than the limit of 100000000 pixels"),
    ],
)
def test_bad_files_are_one_clear_error(tmp_path, content, reason):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageReadError, match=reason) as caught:
            read_picture(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ";" in str(caught.value)  # what to do


def png_of(*chunks: tuple[bytes, bytes]) -> bytes:
    packed = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_whatever_a_decoder_raises_is_one_clear_error(tmp_path):
    """Pillow asserts that a picture of mode P has a palette."""
    header = (b"IHDR", struct.pack(">IIBBBBB", 8, 8, 2, 3, 0, 0, 0))
    (tmp_path / "in.png").write_bytes(png_of(header, (b"IDAT", zlib.compress(bytes(24))), (b"IEND", b"")))
    with pytest.raises(ImageReadError, match=r"in.png: damaged or unsupported \(AssertionError\); copy it again"):
        read_picture(tmp_path / "in.png")


def test_truncated_sixteen_bit_files(tmp_path):
    picture = picture_of(samples_of(90, 90, 3, np.uint16))
    for name in ("in.png", "in.tif"):
        write_picture(tmp_path / name, picture.pixels, like=picture)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(ImageReadError, match=name):
            read_picture(tmp_path / name)


def test_missing_files_folders_and_unsupported_modes(tmp_path):
    with pytest.raises(ImageReadError, match="no such file"):
        read_picture(tmp_path / "none.png")
    with pytest.raises(ImageReadError, match="folder"):
        read_picture(tmp_path)
    Image.new("F", (4, 4)).save(tmp_path / "float.tif")
    with pytest.raises(ImageReadError, match="floating-point numbers"):
        read_picture(tmp_path / "float.tif")


def test_raw_files_and_programs_in_picture_files_are_refused(tmp_path):
    Image.new("RGB", (8, 6)).save(tmp_path / "in.dng", format="TIFF")
    tifffile.imwrite(tmp_path / "raw.tif", samples_of(6, 8, 3), extratags=[(50706, "B", 4, (1, 4, 0, 0), True)])
    tifffile.imwrite(tmp_path / "preview.tif", samples_of(6, 8, 3), subfiletype=1)
    for name in ("in.dng", "raw.tif", "preview.tif"):
        with pytest.raises(ImageReadError, match="raw file; develop it first"):
            read_picture(tmp_path / name)
    Image.new("RGB", (8, 6)).save(tmp_path / "in.eps")  # PostScript: Pillow would start an interpreter
    with pytest.raises(ImageReadError, match="a PostScript file; save"):
        read_picture(tmp_path / "in.eps")


@pytest.mark.parametrize("frame", [0, 1, 2])
def test_frames_are_read_one_by_one(tmp_path, frame):
    pages = [samples_of(5, 4, 3, np.uint16, seed) for seed in range(3)]
    with tifffile.TiffWriter(tmp_path / "in.tif") as writer:
        for page in pages:
            writer.write(page, photometric="rgb", contiguous=False)
    assert find_frames(tmp_path / "in.tif") == [0, 1, 2]
    assert_same(read_picture(tmp_path / "in.tif", frame=frame), picture_of(pages[frame]))
    with pytest.raises(ImageReadError, match="has 3 pages; take the first or each"):
        read_picture(tmp_path / "in.tif")
    with pytest.raises(ImageReadError, match=r"no frame 3; choose from \[0, 1, 2\]"):
        read_picture(tmp_path / "in.tif", frame=3)


def test_the_pixel_limit_is_the_callers_alone(tmp_path, monkeypatch):
    Image.new("RGB", (40, 30)).save(tmp_path / "in.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_picture(tmp_path / "in.png", max_pixels=1200).size == (30, 40)
    assert Image.MAX_IMAGE_PIXELS == 100
    with pytest.raises(ImageReadError, match="40x30 is more than the limit of 1199"):
        read_picture(tmp_path / "in.png", max_pixels=1199)
