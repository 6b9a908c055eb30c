"""Reading and writing pictures: every depth, mode and orientation survives, every bad file is one clear error."""

import errno
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from patchscaler.errors import ImageReadError, ImageWriteError
from patchscaler.imaging.files import (
    Picture,
    find_frames,
    find_pictures,
    picture_from,
    read_picture,
    to_pil,
    write_picture,
)

quick = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
COLOUR_MODES = ["RGB", "RGBA", "L", "LA"]


def samples_of(height: int, width: int, channels: int, dtype=np.uint8, seed: int = 0) -> np.ndarray:
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top, (height, width, channels), dtype=dtype, endpoint=True)


def planes(samples: np.ndarray) -> torch.Tensor:
    """(H,W,C) integers -> (1,C,H,W) in [0, 1]."""
    return torch.from_numpy((samples / np.iinfo(samples.dtype).max).astype(np.float32).transpose(2, 0, 1))[None]


def picture_of(samples: np.ndarray, **facts) -> Picture:
    tensor, channels = planes(samples), samples.shape[2]
    alpha = tensor[:, -1:] if channels in (2, 4) else None
    colours = tensor[:, :1].expand(-1, 3, -1, -1) if channels < 3 else tensor[:, :3]
    return Picture(colours, alpha, bits=8 * samples.itemsize, grey=channels < 3, **facts)


def exif_with(orientation: int | None = None) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8769).update({0x8827: 400, 0xA002: 7, 0xA003: 5})
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 30.0, 0.0)})
    if orientation:
        exif[0x0112] = orientation
    return exif


def assert_same(read: Picture, expected: Picture, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(read.pixels, expected.pixels, atol=tolerance, rtol=0)
    assert (read.alpha is None) == (expected.alpha is None)
    if read.alpha is not None:
        torch.testing.assert_close(read.alpha, expected.alpha, atol=tolerance, rtol=0)
    assert (read.bits, read.grey) == (expected.bits, expected.grey)
    assert read.pixels.is_contiguous()


# --- round trips


@quick
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    channels=st.sampled_from([1, 2, 3, 4]),
    depth=st.sampled_from([np.uint8, np.uint16]),
    suffix=st.sampled_from([".png", ".tif", ".TIFF"]),
    seed=st.integers(0, 2**16),
)
def test_lossless_formats_return_every_sample(tmp_path, height, width, channels, depth, suffix, seed):
    picture = picture_of(samples_of(height, width, channels, depth, seed))
    path = tmp_path / f"out{suffix}"
    write_picture(path, picture.pixels, like=picture)
    read = read_picture(path)
    if picture.bits == 16 and channels == 2 and suffix != ".png":  # such a TIFF is written as RGBA
        assert not read.grey
        read = Picture(read.pixels, read.alpha, bits=16, grey=True)
    assert_same(read, picture)
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


@pytest.mark.parametrize("shape", [(1, 1), (7, 5)])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(("suffix", "bits"), [(".jpg", 8), (".jpeg", 16), (".webp", 8), (".webp", 16)])
def test_lossy_formats_keep_size_and_what_they_can(tmp_path, shape, channels, suffix, bits):
    flat = np.full((*shape, channels), 120, np.uint8)
    picture = picture_of((flat.astype(np.uint16) * 257) if bits == 16 else flat)
    write_picture(tmp_path / f"out{suffix}", picture.pixels, like=picture)
    read = read_picture(tmp_path / f"out{suffix}")
    assert read.size == picture.size
    assert read.bits == 8
    if suffix == ".webp":
        assert (read.alpha is None) == (picture.alpha is None)
        torch.testing.assert_close(read.pixels, picture.pixels, atol=0.02, rtol=0)
    else:
        assert read.alpha is None
        assert read.grey == picture.grey
        on_white = picture.pixels if picture.alpha is None else 1 - picture.alpha * (1 - picture.pixels)
        torch.testing.assert_close(read.pixels, on_white, atol=0.02, rtol=0)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp"])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_metadata_survives_and_states_the_new_size(tmp_path, suffix, depth):
    picture = picture_of(samples_of(5, 7, 3, depth), exif=exif_with().tobytes(), icc_profile=SRGB, dpi=(300.0, 150.0))
    enlarged = picture.pixels.repeat_interleave(4, -1).repeat_interleave(4, -2)
    write_picture(tmp_path / f"out{suffix}", enlarged, like=picture)
    read = read_picture(tmp_path / f"out{suffix}")
    tags = Image.Exif()
    tags.load(read.exif)
    assert tags[0x010F] == "Maker"
    assert {0x8827: 400, 0xA002: 28, 0xA003: 20}.items() <= tags.get_ifd(0x8769).items()
    assert tags.get_ifd(0x8825)[1] == "N"
    assert read.icc_profile == SRGB
    assert read.dpi == pytest.approx((300, 150), abs=0.02)
    write_picture(tmp_path / "again.jpg", enlarged, like=read)  # a TIFF's layout tags must not travel on
    with Image.open(tmp_path / "again.jpg") as again:
        resolution = {282, 283, 296} if suffix == ".webp" else set()  # it has no other place for it
        assert set(again.getexif()) <= {0x010F, 0x8769, 0x8825} | resolution


def test_a_profile_of_another_colour_space_is_not_attached(tmp_path):
    picture = picture_of(samples_of(4, 4, 1), icc_profile=SRGB)
    write_picture(tmp_path / "grey.png", picture.pixels, like=picture)
    assert read_picture(tmp_path / "grey.png").icc_profile is None
    write_picture(tmp_path / "grey.webp", picture.pixels, like=picture)  # WebP stores RGB
    assert read_picture(tmp_path / "grey.webp").icc_profile == SRGB


def test_alpha_of_another_size_follows_the_pixels(tmp_path):
    picture = picture_of(samples_of(6, 5, 4))
    write_picture(tmp_path / "out.png", torch.rand(1, 3, 24, 20), like=picture)
    alpha = read_picture(tmp_path / "out.png").alpha
    expected = Image.fromarray(picture.alpha[0, 0].numpy()).resize((20, 24), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(alpha[0, 0].numpy(), np.clip(np.asarray(expected), 0, 1), atol=0.51 / 255)


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
    assert (read.alpha == 0).nonzero().tolist() == [[0, 0, 2, 3]]
    torch.testing.assert_close(read.pixels, planes(samples))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_png_modes_look_as_pillow_shows_them(tmp_path, mode):
    image = Image.fromarray(samples_of(11, 13, 4)).convert("RGB" if mode in "1LP" else "RGBA").convert(mode)
    image.save(tmp_path / "in.png")
    read = read_picture(tmp_path / "in.png")
    expected = np.asarray(image.convert("RGBA"))
    torch.testing.assert_close(read.pixels, planes(expected)[:, :3])
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
    torch.testing.assert_close(torch.cat([read.pixels, read.alpha], 1), expected)
    assert read.alpha.min() < 1


def test_cmyk_becomes_rgb_and_loses_its_profile(tmp_path):
    image = Image.fromarray(samples_of(8, 8, 3)).resize((32, 32)).convert("CMYK")
    image.save(tmp_path / "in.tif", icc_profile=b"not a profile")
    read = read_picture(tmp_path / "in.tif")
    torch.testing.assert_close(read.pixels, planes(np.asarray(image.convert("RGB"))))
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
    assert (read.pixels - planes(np.asarray(image))).abs().mean() < 0.01
    cmyk = np.asarray(image.convert("CMYK"))
    tifffile.imwrite(tmp_path / "cmyk.tif", cmyk.astype(np.uint16) * 257, photometric="separated")
    read = read_picture(tmp_path / "cmyk.tif")
    assert (read.mode, read.bits) == ("CMYK;16", 8)
    torch.testing.assert_close(read.pixels, planes(np.asarray(image.convert("RGB"))), atol=1.01 / 255, rtol=0)


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
    with pytest.raises(ImageReadError, match="mode F is not supported"):
        read_picture(tmp_path / "float.tif")


def test_raw_files_and_programs_in_picture_files_are_refused(tmp_path):
    Image.new("RGB", (8, 6)).save(tmp_path / "in.dng", format="TIFF")
    tifffile.imwrite(tmp_path / "raw.tif", samples_of(6, 8, 3), extratags=[(50706, "B", 4, (1, 4, 0, 0), True)])
    tifffile.imwrite(tmp_path / "preview.tif", samples_of(6, 8, 3), subfiletype=1)
    for name in ("in.dng", "raw.tif", "preview.tif"):
        with pytest.raises(ImageReadError, match="raw file; develop it first"):
            read_picture(tmp_path / name)
    Image.new("RGB", (8, 6)).save(tmp_path / "in.eps")  # PostScript: Pillow would start an interpreter
    with pytest.raises(ImageReadError, match="unknown format"):
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
    with pytest.raises(ImageReadError, match="30x40 is more than the limit of 1199"):
        read_picture(tmp_path / "in.png", max_pixels=1199)


# --- places that cannot be written


@pytest.fixture
def kept(tmp_path):
    """A folder with an earlier result, which no failure may touch."""
    (tmp_path / "out.png").write_bytes(b"earlier")
    yield tmp_path
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.png"]
    assert (tmp_path / "out.png").read_bytes() == b"earlier"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("out.xyz", "unknown format '.xyz'; use one of .png"),
        ("out", "unknown format ''"),
        ("none/out.png", "does not exist; create it first"),
        ("out.png/out.png", "could not be written"),
    ],
)
def test_unwritable_places(kept, name, reason):
    with pytest.raises(ImageWriteError, match=reason):
        write_picture(kept / name, torch.rand(1, 3, 4, 4))


def test_a_folder_in_the_way(tmp_path):
    (tmp_path / "out.png").mkdir()
    with pytest.raises(ImageWriteError, match="is a folder"):
        write_picture(tmp_path / "out.png", torch.rand(1, 3, 4, 4))
    assert [file.name for file in tmp_path.iterdir()] == ["out.png"]


@pytest.mark.parametrize("bits", [8, 16])
def test_a_full_disk_leaves_nothing_behind(kept, monkeypatch, bits):
    def write_some_then_fail(first, second, *_, **__):
        file = first if bits == 16 else second
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    target = "patchscaler.imaging.files.write_png16" if bits == 16 else "PIL.Image.Image.save"
    monkeypatch.setattr(target, write_some_then_fail)
    picture = Picture(torch.rand(1, 3, 4, 4), bits=bits)
    with pytest.raises(ImageWriteError, match="disk is full"):
        write_picture(kept / "out.png", picture.pixels, like=picture)


def test_a_picture_the_format_cannot_hold(kept):
    with pytest.raises(ImageWriteError, match="PNG instead"):
        write_picture(kept / "out.webp", torch.zeros(1, 3, 1, 16_384))


# --- other sources, and back


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16, np.float32, np.float64])
def test_arrays(channels, depth):
    samples = samples_of(5, 3, channels, np.uint16 if depth == np.uint16 else np.uint8)
    array = samples if depth in (np.uint8, np.uint16) else (samples / 255).astype(depth)
    read = picture_from(array[:, :, 0] if channels == 1 else array)
    assert_same(read, picture_of(samples))


def test_tensors_pil_images_and_paths(tmp_path):
    samples = samples_of(5, 3, 3)
    for tensor in (planes(samples), planes(samples)[0], planes(samples)[0].double()):
        assert_same(picture_from(tensor), picture_of(samples))
    for mode in COLOUR_MODES:
        image = Image.fromarray(samples).convert(mode)
        read = picture_from(image)
        back = to_pil(read.pixels, read.alpha, read.grey)
        assert (back.mode, back.tobytes()) == (mode, image.tobytes())
    image.save(tmp_path / "in.png")
    assert_same(picture_from(str(tmp_path / "in.png")), read)


@pytest.mark.parametrize(
    ("source", "error", "reason"),
    [
        (torch.rand(3, 4), ValueError, r"\(3, 4\)"),
        (torch.rand(2, 3, 4, 4), ValueError, r"\(2, 3, 4, 4\)"),
        (torch.zeros(3, 0, 4), ValueError, r"\(1, 3, 0, 4\)"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), ValueError, "uint8"),
        (torch.full((3, 4, 4), 2.0), ValueError, r"\[2, 2\]"),
        (torch.full((3, 4, 4), torch.nan), ValueError, "nan"),
        (np.zeros((4, 4, 2), np.uint8), ValueError, r"\(4, 4, 2\)"),
        (np.zeros((4, 4), np.int32), ValueError, "int32"),
        (np.full((4, 4), 255.0), ValueError, "255"),
        (17, TypeError, "int"),
    ],
)
def test_sources_that_are_no_picture(source, error, reason):
    with pytest.raises(error, match=reason):
        picture_from(source)


@quick
@given(value=st.floats(-0.5, 1.5, width=32))
def test_bytes_are_rounded_and_clamped(value):
    image = to_pil(torch.full((1, 3, 1, 1), value))
    nearest = min(max(value, 0.0), 1.0) * 255
    assert abs(image.getpixel((0, 0))[0] - nearest) <= 0.5 + 1e-4


# --- folders


def test_folders_become_their_sorted_pictures(tmp_path):
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden.png", "sub/c.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [p.name for p in find_pictures([tmp_path])] == ["a.png", "b.JPG"]
    assert [p.name for p in find_pictures([tmp_path], recursive=True)] == ["a.png", "b.JPG", "c.webp"]
    named = find_pictures([tmp_path / "notes.txt", str(tmp_path / "b.JPG"), tmp_path])
    assert [p.name for p in named] == ["notes.txt", "b.JPG", "a.png"]


def test_folders_without_pictures_and_missing_paths(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ImageReadError, match="no pictures in this folder"):
        find_pictures([tmp_path])
    with pytest.raises(ImageReadError, match="no such file"):
        find_pictures([tmp_path / "none"])
