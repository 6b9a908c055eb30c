"""What metadata say of places in the picture, or of parts of the file that don't travel with it."""

import re
from collections.abc import Sequence
from typing import Any

from PIL import Image

from patchscaler.imaging.geometry import Size

GOOGLE = b"http://ns.google.com/photos/1.0/"
FILM, GAIN_MAP = "the film of a motion photo left out", "HDR gain map left out"
# XMP's namespaces and properties (none: all) that point at such parts, and what is then said.
GONE: tuple[tuple[bytes, tuple[bytes, ...], str | None], ...] = (
    (GOOGLE + b"camera/", (rb"MotionPhoto\w*", rb"MicroVideo\w*"), FILM),
    (GOOGLE + b"container/", (), None),
    (GOOGLE + b"depthmap/", (), "depth map left out"),
    (GOOGLE + b"image/", (), None),
    (GOOGLE + b"audio/", (), "sound left out"),
    (b"http://ns.adobe.com/hdr-gain-map/1.0/", (), GAIN_MAP),
    (b"http://ns.apple.com/HDRGainMap/1.0/", (), GAIN_MAP),
    (b"http://ns.apple.com/pixeldatainfo/1.0/", (), None),
    (b"http://ns.adobe.com/xmp/note/", (b"HasExtendedXMP",), None),
)
PANORAMA = (b"FullPano%sPixels", b"CroppedAreaImage%sPixels", b"CroppedArea%sPixels")
SUBJECT_AREA, SUBJECT_LOCATION, FOCAL_X, FOCAL_Y = 0x9214, 0xA214, 0xA20E, 0xA20F  # EXIF 2.32


def without_lost_parts(xmp: bytes) -> tuple[bytes, list[str]]:
    """A packet without what points at parts that don't travel, and words for these parts."""
    words: list[str] = []
    for namespace, properties, said in GONE:
        for prefix in set(re.findall(rb"xmlns:([\w-]+)\s*=\s*[\"']" + re.escape(namespace) + rb"[\"']", xmp)):
            name = re.escape(prefix) + b":(?:" + (b"|".join(properties) or rb"[\w-]+") + b")"
            kept = re.sub(rb"\s" + name + rb"\s*=\s*(?:\"[^\"]*\"|'[^']*')", b"", xmp)
            kept = re.sub(rb"<" + name + rb"(?:\s[^<>]*)?/>", b"", kept)
            kept = re.sub(rb"<(" + name + rb")(?:\s[^<>]*)?>.*?</\1\s*>", b"", kept, flags=re.DOTALL)
            if kept != xmp and said and said not in words:
                words.append(said)
            xmp = kept
    return xmp, words


def lost_pictures(image: Image.Image) -> list[str]:
    """Words for the pictures beside the main one in a loaded file: a phone's MPO, a HEIC's depth and gain maps."""
    words = ["the file's other pictures left out"] if image.format == "MPO" else []
    if image.info.get("depth_images"):
        words.append("depth map left out")
    if any("gainmap" in str(name).lower() for name in image.info.get("aux") or ()):
        words.append(GAIN_MAP)
    return words


def turn_places(photo: dict[int, Any], stored: Size, orientation: int) -> None:
    """EXIF's places in a stored picture of this size, to those in the upright one."""
    for tag in (SUBJECT_AREA, SUBJECT_LOCATION):
        if tag in photo:
            photo[tag] = _turned(tuple(photo[tag]), stored, orientation)
    if orientation > 4 and FOCAL_X in photo and FOCAL_Y in photo:
        photo[FOCAL_X], photo[FOCAL_Y] = photo[FOCAL_Y], photo[FOCAL_X]


def _turned(place: Sequence[int], stored: Size, orientation: int) -> tuple[int, ...]:
    x, y, *extent = place
    right, low = stored.width - x, stored.height - y
    turned = {2: (right, y), 3: (right, low), 4: (x, low), 5: (y, x), 6: (low, x), 7: (low, right), 8: (y, right)}
    return (*turned.get(orientation, (x, y)), *(reversed(extent) if orientation > 4 else extent))


def scale_places(photo: dict[int, Any], before: Size, after: Size) -> None:
    """EXIF's places and focal plane, for a picture enlarged from one size to another."""
    across, down = after.width / before.width, after.height / before.height
    for tag in (SUBJECT_AREA, SUBJECT_LOCATION):
        if tag in photo:
            factors = (across, down, across, down)
            photo[tag] = tuple(round(side * factor) for side, factor in zip(photo[tag], factors, strict=False))
    for tag, factor in ((FOCAL_X, across), (FOCAL_Y, down)):
        if tag in photo:
            photo[tag] = float(photo[tag]) * factor


def scale_panorama(xmp: bytes, before: Size, after: Size) -> bytes:
    """GPano's pixels, likewise."""
    sides = {b"Width": after.width / before.width, b"Height": after.height / before.height}
    sides |= {b"Left": sides[b"Width"], b"Top": sides[b"Height"]}
    for side, factor in sides.items():
        names = b"|".join(name % side for name in PANORAMA)

        def scaled(match: re.Match[bytes], factor: float = factor) -> bytes:
            return match[1] + str(round(int(match[2]) * factor)).encode() + match[3]

        xmp = re.sub(rb"(\bGPano:(?:" + names + rb")\s*=\s*[\"'])(\d{1,9})([\"'])", scaled, xmp)
        xmp = re.sub(rb"(<GPano:(?:" + names + rb")\s*>\s*)(\d{1,9})(\s*</)", scaled, xmp)
    return xmp
