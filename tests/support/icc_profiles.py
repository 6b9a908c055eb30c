"""ICC profiles made from primaries and curves."""

import struct

from PIL import ImageCms

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# XYZ (D50) of the primaries, in columns, and the exponent of the curve.
DISPLAY_P3 = ([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]], 2.2)
ADOBE_RGB = ([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]], 2.19921875)
PROPHOTO = ([[0.79767, 0.13519, 0.03134], [0.28804, 0.71188, 0.00009], [0.0, 0.0, 0.82491]], 1.8)


def icc_profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile (ICC.1:2001-04) of a display with these tags."""
    tags = {b"cprt": b"text\0\0\0\0CC0\0", b"wtpt": xyz([0.9642, 1.0, 0.8249]), b"desc": description("made"), **tags}
    offset = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, tag in tags.items():
        table += struct.pack(">4sII", name, offset + len(body), len(tag))
        body += tag + b"\0" * (-len(tag) % 4)
    size = 128 + len(table) + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02400000, b"mntr", space, b"XYZ ").ljust(36, b"\0") + b"acsp"
    return head.ljust(68, b"\0") + xyz([0.9642, 1.0, 0.8249])[8:] + b"\0" * 48 + table + body


def xyz(values: list[float]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def gamma(exponent: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(exponent * 256))


def description(text: str) -> bytes:
    return b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text.encode() + b"\0" * 79


def rgb_profile(matrix: list[list[float]], exponent: float) -> bytes:
    columns = {name: xyz([row[i] for row in matrix]) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    return icc_profile(b"RGB ", {**columns, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), gamma(exponent))})


def grey_profile(exponent: float) -> bytes:
    return icc_profile(b"GRAY", {b"kTRC": gamma(exponent)})
