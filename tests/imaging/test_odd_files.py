"""Files with more, less or other things in them than pixels: what is kept, what is left out, and that it is said."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from arrays import assert_close, uniform
from made_pictures import samples_of
from patchscaler.errors import ImageReadError
from patchscaler.imaging.files import Picture, losses, read_picture, read_size, write_picture
from patchscaler.imaging.searching import find_pictures
from patchscaler.imaging.sources import picture_from

HEAD = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:format="image/jpeg" '
)
TAIL = b"</rdf:Description></rdf:RDF></x:xmpmeta>"
CONTAINER = (
    b"<Container:Directory><rdf:Seq><rdf:li rdf:parseType='Resource'><Container:Item Item:Semantic='Primary'/>"
    b"</rdf:li></rdf:Seq></Container:Directory>"
)


def encoded(kind: str, image: Image.Image | None = None, **options) -> bytes:
    file = io.BytesIO()
    (image or Image.fromarray(samples_of(48, 64, 3)).resize((64, 48))).save(file, kind, **options)
    return file.getvalue()


def with_chunk(png: bytes, name: bytes, data: bytes, check: int | None = None) -> bytes:
    """Behind IHDR."""
    check = zlib.crc32(name + data) if check is None else check
    return png[:33] + struct.pack(">I", len(data)) + name + data + struct.pack(">I", check) + png[33:]


# --- what metadata point at


@pytest.mark.parametrize(
    ("properties", "inside", "words"),
    [
        (
            b'xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" GCamera:MotionPhoto="1" '
            b'xmlns:Container="http://ns.google.com/photos/1.0/container/"',
            b"<GCamera:MicroVideoOffset>99</GCamera:MicroVideoOffset>" + CONTAINER,
            ["the film of a motion photo left out"],
        ),
        (
            b'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0" '
            b'xmlns:Container="http://ns.google.com/photos/1.0/container/"',
            CONTAINER,
            ["HDR gain map left out"],
        ),
        (b"xmlns:G=\"http://ns.google.com/photos/1.0/depthmap/\" G:Near='1'", b"", ["depth map left out"]),
        (b'xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmpNote:HasExtendedXMP="AB"', b"", []),
    ],
)
def test_what_points_at_lost_parts_goes_and_is_said(tmp_path, properties, inside, words):
    (tmp_path / "in.jpg").write_bytes(encoded("JPEG", xmp=HEAD + properties + b">" + inside + TAIL))
    read = read_picture(tmp_path / "in.jpg")
    assert list(read.remarks) == words == losses(read, "JPEG")
    for name in (b"MotionPhoto", b"MicroVideo", b"Container:", b"hdrgm:V", b"G:Near", b"HasExtendedXMP"):
        assert name not in read.xmp.replace(b"xmlns:Container", b"")
    assert b'dc:format="image/jpeg"' in read.xmp
    assert read.xmp.endswith(TAIL)


def test_pixels_in_metadata_grow_with_the_picture(tmp_path):
    pano = (
        b'xmlns:GPano="http://ns.google.com/photos/1.0/panorama/" GPano:FullPanoWidthPixels="64" '
        b'GPano:CroppedAreaTopPixels="5"><GPano:FullPanoHeightPixels>32</GPano:FullPanoHeightPixels>'
    )
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0x9214: (10, 20, 8, 6), 0xA214: (10, 20), 0xA20E: 1000.0, 0xA20F: 500.0})
    (tmp_path / "in.jpg").write_bytes(encoded("JPEG", xmp=HEAD + pano + TAIL, exif=exif))
    read = read_picture(tmp_path / "in.jpg")
    write_picture(tmp_path / "out.jpg", uniform(1, 3, 192, 256), like=read)
    again = read_picture(tmp_path / "out.jpg")
    for words in (b'WidthPixels="256"', b'TopPixels="20"', b"<GPano:FullPanoHeightPixels>128<"):
        assert words in again.xmp
    tags = Image.Exif()
    tags.load(again.exif)
    photo = tags.get_ifd(0x8769)
    assert (photo[0x9214], photo[0xA214]) == ((40, 80, 32, 24), (40, 80))
    assert (photo[0xA20E], photo[0xA20F]) == (4000, 2000)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_places_turn_with_the_picture(tmp_path, orientation, suffix):
    """The subject is a white spot; its place is read where the spot is then."""
    image = Image.new("L", (60, 40))
    image.paste(255, (9, 19, 12, 22))
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif.get_ifd(0x8769)[0xA214] = (10, 20)
    path, pixels = tmp_path / f"in{suffix}", picture_from(image).pixels
    write_picture(path, pixels, like=Picture(pixels, grey=True, exif=exif.tobytes()))
    read = read_picture(path)
    assert read.size == read_size(path)
    tags = Image.Exif()
    tags.load(read.exif)
    x, y = tags.get_ifd(0x8769)[0xA214]
    assert read.pixels[0, 0, y, x] == 1


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_tiffs_on_their_side(tmp_path, mode, orientation, compression):
    image = Image.fromarray(samples_of(5, 8, 3)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "in.tif", exif=exif, compression=compression)
    image.getexif()[0x0112] = orientation
    expected = picture_from(ImageOps.exif_transpose(image)).pixels
    assert_close(read_picture(tmp_path / "in.tif").pixels, expected)
    assert read_size(tmp_path / "in.tif") == expected.shape[2:]


# --- colours


@pytest.mark.parametrize("gamma", [1.0, 1 / 1.8])
def test_values_of_another_gamma_become_srgb(tmp_path, gamma):
    light = np.linspace(0, 1, 256)
    values = np.round(255 * light**gamma).astype(np.uint8)[None].repeat(3, 0)
    png = encoded("PNG", Image.fromarray(values))
    (tmp_path / "in.png").write_bytes(with_chunk(png, b"gAMA", struct.pack(">I", round(100_000 * gamma))))
    read = read_picture(tmp_path / "in.png")
    decoded = (values[0] / 255) ** (1 / gamma)
    expected = np.where(decoded <= 0.0031308, 12.92 * decoded, 1.055 * decoded ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(read.pixels[0, 0, 0], expected, atol=1e-3)
    assert read.remarks == (f"values of gamma {1 / gamma:.3g} became sRGB's",)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        (b"cICP", bytes([9, 16, 0, 1]), "HDR (PQ) was read as standard range"),
        (b"cICP", bytes([12, 13, 0, 1]), "Display P3 colours, given by a code alone"),
        (b"cHRM", struct.pack(">8I", 31270, 32900, 70800, 29200, 17000, 79700, 13100, 4600), "cHRM"),
    ],
)
def test_colours_that_are_not_followed_are_named(tmp_path, name, data, words):
    (tmp_path / "in.png").write_bytes(with_chunk(encoded("PNG"), name, data))
    (remark,) = read_picture(tmp_path / "in.png").remarks
    assert words in remark


@pytest.mark.parametrize(("name", "data"), [(b"gAMA", struct.pack(">I", 45455)), (b"cICP", bytes([1, 13, 0, 1]))])
def test_srgb_by_any_name_is_no_remark(tmp_path, name, data):
    (tmp_path / "in.png").write_bytes(with_chunk(encoded("PNG"), name, data))
    assert read_picture(tmp_path / "in.png").remarks == ()


# --- defects


def test_a_png_with_a_broken_remark_is_read(tmp_path):
    image = Image.fromarray(samples_of(5, 7, 3))
    (tmp_path / "in.png").write_bytes(with_chunk(encoded("PNG", image), b"tEXt", b"Title\0x", check=1))
    read = read_picture(tmp_path / "in.png")
    np.testing.assert_array_equal(np.round(read.pixels[0].transpose(1, 2, 0) * 255), np.asarray(image))
    assert read.remarks == ("damaged remarks (tEXt) left out, every pixel is there",)
    assert read_size(tmp_path / "in.png") == (5, 7)
    for name in (b"tRNS", b"gAMA"):  # which change how it looks
        (tmp_path / "in.png").write_bytes(with_chunk(encoded("PNG", image), name, bytes(6), check=1))
        with pytest.raises(ImageReadError):
            read_picture(tmp_path / "in.png")


@pytest.mark.parametrize("options", [{}, {"quality": 30}, {"subsampling": 0}, {"restart_marker_blocks": 2}])
def test_a_jpeg_that_lacks_its_end_alone_is_read(tmp_path, options):
    whole = encoded("JPEG", **options)
    (tmp_path / "whole.jpg").write_bytes(whole)
    (tmp_path / "in.jpg").write_bytes(whole[:-2])
    read = read_picture(tmp_path / "in.jpg")
    assert np.array_equal(read.pixels, read_picture(tmp_path / "whole.jpg").pixels)
    assert read.remarks == ("its end is missing, every pixel is there",)
    for lost in (12, 40, len(whole) // 2):
        (tmp_path / "in.jpg").write_bytes(whole[:-lost])
        with pytest.raises(ImageReadError, match="damaged"):
            read_picture(tmp_path / "in.jpg")
    (tmp_path / "in.jpg").write_bytes(encoded("JPEG", progressive=True)[:-2])  # a whole pass may be missing
    with pytest.raises(ImageReadError, match="damaged"):
        read_picture(tmp_path / "in.jpg")


# --- what can't be read


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"%PDF-1.7\n", "a PDF; save its page as PNG"),
        (b"<?xml version='1.0'?><svg/>", "a drawing (SVG); save it as PNG"),
        (b"\0\0\0\x18ftypisom", "a film; take a picture from it first"),
        (b"\xff\x0a" + bytes(20), "a JPEG XL picture"),
        (b"8BPS\0\1" + bytes(6) + struct.pack(">H2I2H", 3, 8, 8, 16, 3) + bytes(20), "a Photoshop file of 16 bits a"),
        (b"<!DOCTYPE html><html>", "a web page, not the picture"),
        (
            encoded("TIFF").replace(struct.pack("<HHIH", 259, 3, 1, 1), struct.pack("<HHIH", 259, 3, 1, 50001)),
            "a TIFF with WebP inside, which is not read here",
        ),
    ],
)
def test_what_a_file_is_and_what_to_do(tmp_path, content, words):
    (tmp_path / "in.png").write_bytes(content)
    with pytest.raises(ImageReadError, match=r"in\.png: ") as caught:
        read_picture(tmp_path / "in.png")
    assert words in str(caught.value)


def test_every_kind_that_can_be_read_is_a_picture_of_a_folder(tmp_path):
    image = Image.fromarray(samples_of(6, 8, 3))
    kinds = {"jp2": "JPEG2000", "tga": "TGA", "ppm": "PPM", "pcx": "PCX", "qoi": "QOI", "bmp": "BMP", "sgi": "SGI"}
    for suffix, kind in kinds.items():
        image.save(tmp_path / f"a.{suffix}", kind)
    assert {path.suffix[1:] for path in find_pictures([tmp_path])} == set(kinds)
    assert all(read_size(path) == (6, 8) for path in tmp_path.iterdir())


# --- in Python


def test_bytes_and_file_objects_are_pictures(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "A view")
    data = encoded("PNG", pnginfo=info)
    (tmp_path / "in.png").write_bytes(data)
    wanted = read_picture(tmp_path / "in.png")
    with (tmp_path / "in.png").open("rb") as file:
        for source in (data, io.BytesIO(data), file):
            read = picture_from(source)
            assert np.array_equal(read.pixels, wanted.pixels)
            assert dict(read.texts) == {"Title": "A view"}
    with pytest.raises(ImageReadError, match="the picture: a PDF"):
        picture_from(io.BytesIO(b"%PDF-1.4"))


def test_numbers_that_pass_one_by_rounding_are_cut():
    array = np.full((4, 4, 3), 1.00005, np.float32)
    assert picture_from(array).pixels.max() == 1
    assert picture_from(np.full((3, 4, 4), -1e-5, np.float32)).pixels.min() == 0
    with pytest.raises(ValueError, match="divide or clamp"):
        picture_from(array * 1.1)


def test_whole_numbers_of_numpy_are_whole_numbers():
    """In a process of its own: here types are checked more strictly than anywhere else."""
    code = (
        "import numpy\nfrom patchscaler.options import Options\n"
        "made = Options(steps=tuple(numpy.array([0, 3, 4])), seed=numpy.int64(7))\n"
        "print(made.steps, made.seed, type(made.seed).__name__)\n"
        "for wrong in ({'seed': 1.5}, {'seed': 2.0}, {'steps': (0, 1.5, 2)}):\n"
        "    try:\n        Options(**wrong)\n"
        "    except Exception as error:\n        print(type(error).__name__, error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0] == "(0, 3, 4) 7 int"
    assert len(said) == 4
    assert all(line.startswith("ConfigError") and line.endswith("must be whole numbers") for line in said[1:])


def test_a_picture_without_a_file_has_no_remarks():
    assert (
        losses(
            Picture(
                np.zeros(
                    (
                        1,
                        3,
                        2,
                        2,
                    ),
                    np.float32,
                )
            ),
            "PNG",
        )
        == []
    )
