"""What a file says about its picture: EXIF, XMP, IPTC, remarks and resolution, read, brought up to date, and written.

Pixels stand upright here, so an orientation is 1 wherever it was stated, and stated dimensions become the new ones.
"""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image, PngImagePlugin

from patchscaler.imaging.geometry import Size
from patchscaler.imaging.pointers import lost_pictures, scale_panorama, scale_places, turn_places, without_lost_parts
from patchscaler.imaging.sixteen_bit import EXIF_IFD, LAYOUT_TAGS, RESOLUTION_UNIT, X_RESOLUTION, Y_RESOLUTION

ORIENTATION, EXIF_WIDTH, EXIF_HEIGHT, MAKER_NOTE = 0x0112, 0xA002, 0xA003, 0x927C
SOFTWARE, PROCESSING_SOFTWARE, IMAGE_HISTORY = 0x0131, 0x000B, 0x9213
XMP_TAG, IPTC_TAG, PHOTOSHOP_TAG = 700, 33723, 34377  # of a TIFF
IPTC_RESOURCE = 0x0404  # of a Photoshop block
# A TIFF's tags that are no EXIF: read for themselves, or (layers of a Photoshop file) no longer true.
FOREIGN_TAGS = frozenset({XMP_TAG, IPTC_TAG, PHOTOSHOP_TAG, 34675, 37724, 50255, 32932})

LONGEST_SEGMENT = 65_533  # bytes of a JPEG's marker segment
LONGEST_XMP = 65_504
LONGEST_TEXT = 1 << 20  # characters kept of a remark
PNG_XMP, PNG_IPTC = "XML:com.adobe.xmp", "Raw profile type iptc"

NAME = "PatchScaler"
TIFF_TURN = "patchscaler_orientation"  # in the `info` of an opened TIFF: how it lies in its file

BLOCK_ERRORS = (Exception,)  # on a damaged block Pillow raises whatever its code stumbles over


@dataclass(frozen=True)
class Metadata:
    """exif: block without orientation and thumbnail; xmp: packet (XML); iptc: IPTC-IIM records; texts: a PNG's remarks
    by keyword, a JPEG's under "Comment"; dpi: horizontal and vertical pixels per inch."""

    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    dpi: tuple[float, float] | None = None


def read_metadata(image: Image.Image) -> tuple[Metadata, int, list[str]]:
    """All a loaded PIL image has, its orientation, 1 to 8, and words for parts of its file that don't travel.

    Damaged blocks count as missing.
    """
    xmp, words = _read_xmp(image)
    data = Metadata(_read_exif(image), xmp, _read_iptc(image), _read_texts(image), _read_dpi(image))
    return data, read_orientation(image), list(dict.fromkeys((*words, *lost_pictures(image))))


def read_orientation(image: Image.Image) -> int:
    """1 to 8 (EXIF 2.32, tag 0x0112); 1 where nothing or nonsense is stated."""
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except BLOCK_ERRORS:
        return 1
    return orientation if orientation in range(1, 9) else 1


def updated(data: Metadata, before: Size, size: Size, history: str | None) -> Metadata:
    """The same for a picture enlarged from one size to another; `history`, a line on what was done, is added to EXIF's
    ImageHistory."""
    exif, xmp = data.exif, data.xmp
    if exif is not None or history is not None:
        tags = Image.Exif()
        tags.load(exif or b"")
        photo = tags.get_ifd(EXIF_IFD)
        if EXIF_WIDTH in photo and EXIF_HEIGHT in photo:
            photo[EXIF_WIDTH], photo[EXIF_HEIGHT] = size.width, size.height
        scale_places(photo, before, size)
        if history is not None:
            tags[PROCESSING_SOFTWARE] = NAME
            if SOFTWARE not in tags:  # often the camera's; then it stays
                tags[SOFTWARE] = NAME
            earlier = str(photo.get(IMAGE_HISTORY, "")).rstrip("\0 ")
            photo[IMAGE_HISTORY] = f"{earlier}\n{history}" if earlier else history
        exif = tags.tobytes()
    if xmp is not None:
        for name, value in ((b"PixelXDimension", size.width), (b"PixelYDimension", size.height)):
            xmp = _set_property(xmp, b"exif:" + name, value)
        for name, value in ((b"ImageWidth", size.width), (b"ImageLength", size.height)):
            xmp = _set_property(xmp, b"tiff:" + name, value)
        xmp = scale_panorama(xmp, before, size)
    return replace(data, exif=exif, xmp=xmp)


def bare(data: Metadata, history: str | None) -> Metadata:
    """The resolution alone and, of a result, its mark, which says nothing of its source."""
    return Metadata(exif=None if history is None else _mark(), dpi=data.dpi)


def _mark() -> bytes:
    tags = Image.Exif()
    tags[PROCESSING_SOFTWARE] = NAME
    return tags.tobytes()


def jpeg_options(data: Metadata) -> dict[str, Any]:
    """Arguments of Pillow's JPEG writer; too long an EXIF loses the maker's note, then all but the mark."""
    exif = data.exif
    if exif and len(exif) > LONGEST_SEGMENT:
        tags = Image.Exif()
        tags.load(exif)
        tags.get_ifd(EXIF_IFD).pop(MAKER_NOTE, None)
        exif = tags.tobytes()
        if len(exif) > LONGEST_SEGMENT and tags.get(PROCESSING_SOFTWARE) == NAME:
            exif = _mark()
    options: dict[str, Any] = {}
    if exif and len(exif) <= LONGEST_SEGMENT:
        options["exif"] = exif
    if data.xmp and len(data.xmp) <= LONGEST_XMP:
        options["xmp"] = data.xmp
    if data.iptc:
        resource = (
            b"8BIM" + struct.pack(">HHI", IPTC_RESOURCE, 0, len(data.iptc)) + data.iptc + len(data.iptc) % 2 * b"\0"
        )
        block = b"Photoshop 3.0\0" + resource
        if len(block) <= LONGEST_SEGMENT:
            options["extra"] = b"\xff\xed" + struct.pack(">H", len(block) + 2) + block
    comment = data.texts.get("Comment", "").encode()
    if comment and len(comment) <= LONGEST_SEGMENT:
        options["comment"] = comment
    if data.dpi:
        options["dpi"] = data.dpi
    return options


def webp_options(data: Metadata) -> dict[str, Any]:
    """Arguments of Pillow's WebP and AVIF writers. They have no place for IPTC and remarks, and EXIF alone states the
    resolution."""
    exif = data.exif
    if data.dpi:
        tags = Image.Exif()
        tags.load(exif or b"")
        tags[X_RESOLUTION], tags[Y_RESOLUTION], tags[RESOLUTION_UNIT] = *data.dpi, 2
        exif = tags.tobytes()
    return {name: block for name, block in (("exif", exif), ("xmp", data.xmp)) if block}


def png_info(data: Metadata) -> PngImagePlugin.PngInfo:
    """Chunks of a PNG for XMP, IPTC (as ImageMagick and ExifTool keep it) and remarks."""
    info = PngImagePlugin.PngInfo()
    if data.xmp:
        info.add_itxt(PNG_XMP, data.xmp.decode("utf-8", "replace"))
    if data.iptc:
        digits = data.iptc.hex()
        lines = "\n".join(digits[start : start + 72] for start in range(0, len(digits), 72))
        info.add_text(PNG_IPTC, f"\niptc\n{len(data.iptc):8}\n{lines}\n", zip=True)
    for keyword, text in data.texts.items():
        info.add_text(keyword, text)  # turns to iTXt by itself where Latin-1 is not enough
    return info


def tiff_tags(data: Metadata) -> dict[int, bytes]:
    """Tags of a TIFF for XMP and IPTC; EXIF is the directory itself."""
    return {tag: block for tag, block in ((XMP_TAG, data.xmp), (IPTC_TAG, data.iptc)) if block}


def _read_exif(image: Image.Image) -> bytes | None:
    """The EXIF block with orientation 1, without thumbnail and (of a TIFF) the file's layout."""
    try:
        found, tags = image.getexif(), Image.Exif()
        tags.load(found.tobytes())
        if ORIENTATION in tags:
            tags[ORIENTATION] = 1
        stored, orientation = _as_stored(image)
        if orientation > 1:
            turn_places(tags.get_ifd(EXIF_IFD), stored, orientation)
        if image.format == "TIFF":
            for tag in LAYOUT_TAGS & set(tags):
                del tags[tag]
        for tag in FOREIGN_TAGS & set(tags):
            del tags[tag]
        exif = tags.tobytes() if len(tags) else None
        updated(
            Metadata(exif), Size(1, 1), Size(1, 1), NAME
        )  # what can't be brought up to date would fail when it is written
        return exif
    except BLOCK_ERRORS:  # a damaged block is no reason to refuse the picture
        return None


def _as_stored(image: Image.Image) -> tuple[Size, int]:
    """The size of a loaded picture as it lies in the file, and its orientation; a TIFF Pillow has turned upright."""
    size = Size(image.height, image.width)
    if image.format != "TIFF":
        return size, read_orientation(image)
    orientation = int(image.info.get(TIFF_TURN, 1))
    return Size(size.width, size.height) if orientation > 4 else size, orientation


def _read_xmp(image: Image.Image) -> tuple[bytes | None, list[str]]:
    packet = image.info.get("xmp")
    if isinstance(packet, str):
        packet = packet.encode()
    if not isinstance(packet, bytes) or b"<" not in packet:
        return None, []
    packet, words = without_lost_parts(packet.rstrip(b"\0"))
    return _set_property(packet, b"tiff:Orientation", 1), words


def _set_property(xmp: bytes, name: bytes, value: int) -> bytes:
    """A whole-number property set where the packet states it, as an attribute or as an element."""
    number = str(value).encode()
    xmp = re.sub(rb"(\b" + name + rb"\s*=\s*[\"'])\d+([\"'])", rb"\g<1>" + number + rb"\g<2>", xmp)
    return re.sub(rb"(<" + name + rb"\s*>)\s*\d+\s*(</)", rb"\g<1>" + number + rb"\g<2>", xmp)


def _read_iptc(image: Image.Image) -> bytes | None:
    """IPTC-IIM records from where JPEG, TIFF and PNG have them."""
    resources = image.info.get("photoshop")
    block: Any = resources.get(IPTC_RESOURCE) if isinstance(resources, dict) else None
    if block is None:  # raw, because Pillow cuts it to one number where a program calls its bytes 32-bit numbers
        block = getattr(getattr(image, "tag_v2", None), "_tagdata", {}).get(IPTC_TAG)
        if isinstance(block, bytes) and block[3:4] == b"\x1c" and len(block) % 4 == 0:  # and then in the other order
            block = struct.pack(f">{len(block) // 4}I", *struct.unpack(f"<{len(block) // 4}I", block))
    if block is None and isinstance(text := image.info.get(PNG_IPTC), str):
        try:
            block = bytes.fromhex("".join(text.split()[2:]))
            block = block[block.index(b"\x1c") :]  # ImageMagick puts Photoshop's frame around it
        except ValueError:
            block = None
    return bytes(block) if isinstance(block, bytes) and block.startswith(b"\x1c") else None


def _read_texts(image: Image.Image) -> dict[str, str]:
    if image.format == "PNG":
        texts = {str(key): str(text) for key, text in getattr(image, "text", {}).items()}
        kept = {key: text for key, text in texts.items() if key != PNG_XMP and not key.startswith("Raw profile type ")}
        # dates of the file, which ImageMagick notes, are not the new one's
        kept = {key: text for key, text in kept.items() if not key.startswith("date:")}
    else:
        comment = image.info.get("comment")
        text = comment.decode("utf-8", "replace") if isinstance(comment, bytes) else comment
        kept = {"Comment": text} if isinstance(text, str) and text.strip("\0 ") else {}
    return {key: text for key, text in kept.items() if 0 < len(key) < 80 and len(text) <= LONGEST_TEXT}


def _read_dpi(image: Image.Image) -> tuple[float, float] | None:
    try:
        given = image.info.get("dpi")
        if given is None:  # WebP, HEIC and AVIF have it in EXIF alone; 1 there means no unit, 3 centimetres
            tags = image.getexif()
            unit = {2: 1.0, 3: 2.54}[tags.get(RESOLUTION_UNIT, 2)]
            given = (float(tags[X_RESOLUTION]) * unit, float(tags[Y_RESOLUTION]) * unit)
        horizontal, vertical = (float(value) for value in given)
    except BLOCK_ERRORS:
        return None
    return (horizontal, vertical) if 1 < horizontal < 1e5 and 1 < vertical < 1e5 else None
