"""Bodies of uploads: small pictures, and what a server must refuse."""

import io
import json
import random
import struct
import zlib

import numpy as np
from PIL import Image


def picture(number: int = 0, height: int = 16, width: int = 16, kind: str = "PNG", mode: str = "RGB") -> bytes:
    rng = np.random.default_rng(number)
    samples = rng.integers(0, 256, (height, width, len(mode)), np.uint8)
    file = io.BytesIO()
    Image.fromarray(samples.squeeze()).save(file, kind)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(height: int, width: int, *more: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + b"".join(more)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


OTHERS = [
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) (r) file\n",
    b"%PDF-1.7\n1 0 obj\n",
    b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    b"<html><script>1</script></html>",
    b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
    b"push graphic-context\nimage over 0,0 0,0 '|id'\npop graphic-context",
    b"PK\3\4" + bytes(60),
    b"\x7fELF" + bytes(60),
    b"MZ" + bytes(60),
    b"#!/bin/sh\nid\n",
    b"\x1f\x8b\x08" + bytes(60),
    b"8BPS\0\1" + bytes(60),
    b"P6 4 4 255\n" + bytes(48),
    b"P7\nWIDTH 4\n",
    b"\0\0\1\0\1\0" + bytes(60),
    b"/* XPM */\nstatic char *a[] = {",
    b"#define a_width 4\n#define a_height 4\n",
    b"qoif" + bytes(20),
    b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(60),
    b"icns" + bytes(60),
    b"DDS " + bytes(124),
    b"SIMPLE  =                    T",
    b"ID3\3" + bytes(60),
    b"OggS" + bytes(60),
]


def malformed() -> list[tuple[str, bytes]]:
    """Truncated, bombs, wrong types, path tricks, noise: name and body."""
    rng = random.Random(5)
    kinds = {kind: picture(9, 40, 50, kind) for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")}
    bad = [("empty", b""), ("one byte", b"\x89"), ("zeros", bytes(5000)), ("too long", picture(0) + bytes(2**20))]
    for kind, whole in kinds.items():
        bad += [(f"{kind} cut at {part}/16", whole[: len(whole) * part // 16]) for part in range(1, 15)]
        bad += [(f"{kind} magic and noise {n}", whole[:12] + rng.randbytes(400)) for n in range(9)]
        bad += [(f"text before {kind}", b"hello " + whole)]
    # Headers that promise more than may be decoded.
    for side in (708, 5000, 30_000, 100_000, 2**31 - 1):
        bad += [
            (f"png of {side}", png(side, side)),
            (f"wide png of {side}", png(16, side * side if side < 9999 else side)),
        ]
    zeros = zlib.compress(bytes(40_000_000), 9)
    bad += [
        ("compressed text", png(9, 9, chunk(b"zTXt", b"a\0\0" + zeros))),
        ("profile", png(9, 9, chunk(b"iCCP", b"a\0\0" + zeros))),
    ]
    bad += [("gif of 65535", b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(9))]
    for side in (20_000, 2**30):
        bad += [(f"bmp of {side}", kinds["BMP"][:18] + struct.pack("<ii", side, side) + kinds["BMP"][26:])]
    bad += [("webp of 16384", kinds["WEBP"][:12] + b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff\x3f\x00" * 2)]
    no_pixels = [png(0, 0), png(0, 5), png(5, 0)]
    bad += [(f"no pixels {n}", body) for n, body in enumerate(no_pixels)]
    # Other things than pictures, some of which Pillow would open if it were let.
    bad += [(f"other thing {n}", body) for n, body in enumerate(OTHERS)]
    # Paths in every place a client could write one.
    for path in (
        "/etc/passwd",
        "../../../../etc/passwd",
        "..\\..\\windows\\win.ini",
        "file:///etc/passwd",
        "C:\\boot.ini",
    ):
        form = f'--x\r\nContent-Disposition: form-data; name="file"; filename="{path}"\r\n\r\n'.encode()
        call = json.dumps({"data": [{"path": path, "meta": {}}]}).encode()
        bad += [
            (f"{path} alone", path.encode()),
            (f"{path} in a form", form + kinds["PNG"] + b"\r\n--x--"),
            (f"{path} in a call", call),
        ]
    return bad
