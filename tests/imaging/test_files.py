"""Writing pictures and reading them back: every depth, mode and orientation survives."""

import errno
import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from arrays import assert_close, uniform
from icc_profiles import SRGB
from made_pictures import COLOUR_MODES, assert_same, exif_with, picture_of, planes, quick, samples_of
from patchscaler.errors import ImageReadError, ImageWriteError
from patchscaler.imaging.files import Picture, find_pictures, read_picture, to_pil, write_picture
from patchscaler.imaging.sources import picture_from

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
@pytest.mark.parametrize(
    ("suffix", "bits"), [(".jpg", 8), (".jpeg", 16), (".webp", 8), (".webp", 16), (".avif", 8), (".avif", 16)]
)
def test_lossy_formats_keep_size_and_what_they_can(tmp_path, shape, channels, suffix, bits):
    flat = np.full((*shape, channels), 120, np.uint8)
    picture = picture_of((flat.astype(np.uint16) * 257) if bits == 16 else flat)
    write_picture(tmp_path / f"out{suffix}", picture.pixels, like=picture)
    read = read_picture(tmp_path / f"out{suffix}")
    assert read.size == picture.size
    assert read.bits == 8
    if suffix in (".webp", ".avif"):
        assert (read.alpha is None) == (picture.alpha is None)
        assert_close(read.pixels, picture.pixels, atol=0.02, rtol=0)
    else:
        assert read.alpha is None
        assert read.grey == picture.grey
        on_white = picture.pixels if picture.alpha is None else 1 - picture.alpha * (1 - picture.pixels)
        assert_close(read.pixels, on_white, atol=0.02, rtol=0)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp", ".avif"])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_metadata_survives_and_states_the_new_size(tmp_path, suffix, depth):
    picture = picture_of(samples_of(5, 7, 3, depth), exif=exif_with().tobytes(), icc_profile=SRGB, dpi=(300.0, 150.0))
    enlarged = picture.pixels.repeat(4, -1).repeat(4, -2)
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
        resolution = {282, 283, 296} if suffix in (".webp", ".avif") else set()  # they have no other place for it
        assert set(again.getexif()) <= {0x010F, 0x8769, 0x8825} | resolution


def test_a_profile_of_another_colour_space_is_not_attached(tmp_path):
    picture = picture_of(samples_of(4, 4, 1), icc_profile=SRGB)
    write_picture(tmp_path / "grey.png", picture.pixels, like=picture)
    assert read_picture(tmp_path / "grey.png").icc_profile is None
    write_picture(tmp_path / "grey.webp", picture.pixels, like=picture)  # WebP stores RGB
    assert read_picture(tmp_path / "grey.webp").icc_profile == SRGB


def test_alpha_of_another_size_follows_the_pixels(tmp_path):
    picture = picture_of(samples_of(6, 5, 4))
    write_picture(tmp_path / "out.png", uniform(1, 3, 24, 20), like=picture)
    alpha = read_picture(tmp_path / "out.png").alpha
    expected = Image.fromarray(picture.alpha[0, 0]).resize((20, 24), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(alpha[0, 0], np.clip(np.asarray(expected), 0, 1), atol=0.51 / 255)


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
        write_picture(kept / name, uniform(1, 3, 4, 4))


def test_a_folder_in_the_way(tmp_path):
    (tmp_path / "out.png").mkdir()
    with pytest.raises(ImageWriteError, match="is a folder"):
        write_picture(tmp_path / "out.png", uniform(1, 3, 4, 4))
    assert [file.name for file in tmp_path.iterdir()] == ["out.png"]


@pytest.mark.parametrize("bits", [8, 16])
def test_a_full_disk_leaves_nothing_behind(kept, monkeypatch, bits):
    def write_some_then_fail(first, second, *_, **__):
        file = first if bits == 16 else second
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    target = "patchscaler.imaging.writing.write_png16" if bits == 16 else "PIL.Image.Image.save"
    monkeypatch.setattr(target, write_some_then_fail)
    picture = Picture(uniform(1, 3, 4, 4), bits=bits)
    with pytest.raises(ImageWriteError, match="disk is full"):
        write_picture(kept / "out.png", picture.pixels, like=picture)


def test_a_picture_the_format_cannot_hold(kept):
    with pytest.raises(ImageWriteError, match="PNG instead"):
        write_picture(
            kept / "out.webp",
            np.zeros(
                (
                    1,
                    3,
                    1,
                    16_384,
                ),
                np.float32,
            ),
        )


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
    tensor = torch.from_numpy(planes(samples))
    for source in (tensor, tensor[0], tensor[0].double()):
        assert_same(picture_from(source), picture_of(samples))
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
    image = to_pil(np.full((1, 3, 1, 1), value, np.float32))
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


@pytest.mark.parametrize(("name", "kind"), [("png", "PNG"), ("JPG", "JPEG"), ("tif", "TIFF"), ("webp", "WEBP")])
def test_file_objects_go_in_and_out(tmp_path, name, kind):
    pixels = np.random.default_rng(0).random((1, 3, 7, 9), np.float32)
    write_picture(file := io.BytesIO(), pixels, format=name, history="made")
    with Image.open(io.BytesIO(file.getvalue())) as image:
        assert (image.format, image.size) == (kind, (9, 7))
    file.seek(0)
    assert read_picture(file).size == (7, 9)
    with open(tmp_path / "named.png", "wb") as own:
        write_picture(own, pixels)
    assert read_picture(tmp_path / "named.png").size == (7, 9)
    with pytest.raises(ImageWriteError, match=r"the picture: unknown format ''; use one of \.png"):
        write_picture(io.BytesIO(), pixels)
    closed = io.BytesIO()
    closed.close()
    with pytest.raises(ImageWriteError, match="the picture: could not be written"):
        write_picture(closed, pixels, format="png")
