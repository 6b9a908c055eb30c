"""EXIF, XMP, IPTC, remarks: kept from any format to any, brought up to date, and no reason to refuse a picture."""

import io
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image, PngImagePlugin

from arrays import assert_close, uniform
from patchscaler.imaging.files import Picture, losses, read_picture, read_size, write_picture
from patchscaler.imaging.metadata import IMAGE_HISTORY, IPTC_TAG, MAKER_NOTE, jpeg_options
from patchscaler.imaging.sources import picture_from

XMP = (
    b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/" tiff:Orientation="6" '
    b'exif:PixelXDimension="7"><exif:PixelYDimension>5</exif:PixelYDimension>'
    b"<tiff:Artist>Vermeer \xc3\xa9</tiff:Artist>"
    b'</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)
IPTC = b"\x1c\x02\x78\x00\x09A caption" + b"\x1c\x02\x5a\x00\x05Delft"
TEXTS = {"Title": "A view", "Comment": "of Delft, 1660 \u2013 1661"}


def source(bits: int = 8) -> Picture:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    return Picture(uniform(1, 3, 5, 7), bits=bits, exif=exif.tobytes(), xmp=XMP, iptc=IPTC, texts=TEXTS)


def photo_tags(exif: bytes) -> dict:
    tags = Image.Exif()
    tags.load(exif)
    return tags.get_ifd(0x8769)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_every_block_survives_where_the_format_has_a_place(tmp_path, suffix, bits):
    picture = source(bits)
    write_picture(tmp_path / f"out{suffix}", picture.pixels, like=picture)
    read = read_picture(tmp_path / f"out{suffix}")
    assert b"<tiff:Artist>Vermeer \xc3\xa9</tiff:Artist>" in read.xmp
    assert read.iptc == (None if suffix == ".webp" else IPTC)
    kept = {".png": TEXTS, ".jpg": {"Comment": TEXTS["Comment"]}}.get(suffix, {})
    assert dict(read.texts) == kept
    kind = {".png": "PNG", ".jpg": "JPEG", ".tif": "TIFF", ".webp": "WEBP"}[suffix]
    lost = ["remarks left out"] * (kept != TEXTS) + ["IPTC left out"] * (suffix == ".webp")
    assert sorted(losses(picture, kind)) == sorted(
        lost + ["16 bits became 8"] * (bits == 16 and kind in ("JPEG", "WEBP"))
    )


def test_xmp_is_brought_up_to_date(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (7, 5)).save(buffer, "JPEG", xmp=XMP)
    (tmp_path / "in.jpg").write_bytes(buffer.getvalue())
    read = read_picture(tmp_path / "in.jpg")
    assert read.size == (7, 5)  # XMP's orientation counts where EXIF has none
    assert read_size(tmp_path / "in.jpg") == (7, 5)
    assert b'tiff:Orientation="1"' in read.xmp
    write_picture(tmp_path / "out.jpg", uniform(1, 3, 28, 20), like=read)
    again = read_picture(tmp_path / "out.jpg")
    assert again.size == (28, 20)
    assert b'exif:PixelXDimension="20"' in again.xmp
    assert b"<exif:PixelYDimension>28</exif:PixelYDimension>" in again.xmp


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_what_was_done_is_noted_and_earlier_notes_stay(tmp_path, suffix):
    picture = source()
    for turn, line in enumerate(("first", "second")):
        write_picture(tmp_path / f"{turn}{suffix}", picture.pixels, like=picture, history=line)
        picture = read_picture(tmp_path / f"{turn}{suffix}")
    assert photo_tags(picture.exif)[IMAGE_HISTORY] == "first\nsecond"
    bare = Picture(picture.pixels)
    write_picture(tmp_path / f"bare{suffix}", bare.pixels, like=bare, history="alone")
    assert photo_tags(read_picture(tmp_path / f"bare{suffix}").exif)[IMAGE_HISTORY] == "alone"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_without_metadata_only_profile_and_resolution_remain(tmp_path, suffix):
    picture = source()
    picture = Picture(**{**vars(picture), "dpi": (200.0, 200.0)})
    write_picture(tmp_path / f"out{suffix}", picture.pixels, like=picture, metadata=False, history="done")
    read = read_picture(tmp_path / f"out{suffix}")
    assert (read.xmp, read.iptc, dict(read.texts)) == (None, None, {})
    assert read.dpi == pytest.approx((200, 200), abs=0.02)
    assert read.exif is None or photo_tags(read.exif) == {}  # a WebP has its resolution there
    assert b"Maker" not in (tmp_path / f"out{suffix}").read_bytes()
    assert losses(picture, "WEBP", metadata=False) == []


def test_exif_too_long_for_a_jpeg_loses_the_makers_note_first():
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8769).update({MAKER_NOTE: b"x" * 70_000, 0x8827: 400})
    options = jpeg_options(
        Picture(
            np.zeros(
                (
                    1,
                    3,
                    1,
                    1,
                ),
                np.float32,
            ),
            exif=exif.tobytes(),
        ).metadata
    )
    assert photo_tags(options["exif"]) == {0x8827: 400}
    exif[0x010E] = "y" * 70_000
    assert "exif" not in jpeg_options(
        Picture(
            np.zeros(
                (
                    1,
                    3,
                    1,
                    1,
                ),
                np.float32,
            ),
            exif=exif.tobytes(),
        ).metadata
    )


@pytest.mark.parametrize("order", ["<", ">"])
def test_iptc_called_numbers_in_a_tiff(tmp_path, order):
    """As exiftool and Photoshop write it: the same bytes as 32-bit numbers."""
    words = IPTC + b"\0" * (-len(IPTC) % 4)
    values = struct.unpack(f"{order}{len(words) // 4}I", words)
    tag = (IPTC_TAG, "I", len(values), values, True)
    tifffile.imwrite(tmp_path / "in.tif", np.zeros((4, 4), np.uint8), extratags=[tag], byteorder="<", metadata=None)
    assert read_picture(tmp_path / "in.tif").iptc == words


def test_iptc_of_imagemagicks_pngs(tmp_path):
    """It puts Photoshop's frame around the records."""
    framed = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type iptc", f"\niptc\n{len(framed):8}\n{framed.hex()}\n", zip=True)
    Image.new("L", (4, 4)).save(tmp_path / "in.png", pnginfo=info)
    assert read_picture(tmp_path / "in.png").iptc == IPTC


@pytest.mark.parametrize(
    "block",
    [{"xmp": b"no markup"}, {"exif": b"Exif\0\0MM\0*\xff\xff\xff\xff"}, {"extra": b"\xff\xed\0\x06junk"}],
    ids=["xmp", "exif", "photoshop"],
)
def test_damaged_blocks_count_as_missing(tmp_path, block):
    Image.new("RGB", (6, 6)).save(tmp_path / "in.jpg", **block)
    read = read_picture(tmp_path / "in.jpg")
    assert (read.exif, read.xmp, read.iptc) == (None, None, None)


def test_heic(tmp_path):
    from pillow_heif import register_heif_opener

    register_heif_opener()
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6
    image = Image.new("RGB", (64, 48), (200, 100, 50))
    image.save(tmp_path / "in.heic", exif=exif.tobytes(), quality=95)
    read = read_picture(tmp_path / "in.heic")
    assert read.size == (64, 48) == read_size(tmp_path / "in.heic")  # upright
    assert_close(read.pixels.mean(axis=(2, 3))[0], np.array([200, 100, 50]) / 255, atol=0.02, rtol=0)
    tags = Image.Exif()
    tags.load(read.exif)
    assert (tags[0x010F], tags.get(0x0112, 1)) == ("Maker", 1)


def test_heic_without_its_package_is_said_to_need_it(tmp_path):
    code = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from patchscaler.imaging.files import read_picture\n"
        "try:\n    read_picture('in.heic')\nexcept Exception as error:\n    print(error)"
    )
    (tmp_path / "in.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 100)
    run = [sys.executable, "-c", code]
    answer = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=True, env=os.environ)
    assert answer.stdout == (
        "in.heic: HEIC pictures need one more package; install the reader (pip install 'patchscaler[heic]') "
        "or save it as JPEG\n"
    )


def test_pil_images_bring_theirs(tmp_path):
    picture = source()
    write_picture(tmp_path / "in.png", picture.pixels, like=picture)
    with Image.open(tmp_path / "in.png") as image:
        read = picture_from(image)
    assert (read.iptc, dict(read.texts)) == (IPTC, TEXTS)
