"""ICC profiles: a file's colour values to sRGB for the model, and back, at full depth and without losing wide colours.

Profiles of three curves and a matrix (sRGB, Display P3, Adobe RGB, ProPhoto: nearly all that pictures carry) and of one
grey curve are computed here in floating point (ICC.1:2022, F.3 and 8.3); LittleCMS, as Pillow offers it, has 8 bits a
sample. It does the others: tables (scanners), and CMYK.
"""

import functools
import io
import struct
from typing import NamedTuple

import numpy as np
from numpy import ndarray
from numpy.typing import NDArray
from PIL import Image, ImageCms

from patchscaler.imaging.shapes import Float

KNOTS = 65_536  # of a tabulated curve: finer than 16 bits can show
ALIKE = 1 / 512  # profiles that differ less from sRGB are taken for it: half a step of 8 bits
SLICE = 1 << 20  # pixels converted at a time
GREY, RGB = b"GRAY", b"RGB "

Curve = NDArray[np.float64]  # (KNOTS,) light in [0, 1] of equidistant values


class Light(NamedTuple):
    """What values of a profile mean: the curve of each channel, and their XYZ (D50) where all but it are dark."""

    curves: tuple[Curve, ...]
    matrix: NDArray[np.float64]  # (3, channels)


def colour_space(profile: bytes) -> bytes:
    """What the values are: GREY, RGB or another signature of four bytes (ICC.1:2022, 7.2.8)."""
    return profile[16:20]


def is_usable(profile: bytes) -> bool:
    """Whether pictures can be converted from this grey or RGB profile to sRGB and back."""
    if colour_space(profile) == GREY:
        return _light(profile) is not None
    if colour_space(profile) != RGB:
        return False
    return _light(profile) is not None or (_littlecms(profile, True) and _littlecms(profile, False)) is not None


@functools.lru_cache(maxsize=16)
def is_srgb(profile: bytes) -> bool:
    """Whether an RGB profile is sRGB, whatever its name: nowhere more than half an 8-bit step away."""
    if colour_space(profile) != RGB or not is_usable(profile):
        return False
    side = np.linspace(0, 1, 9, dtype=np.float32)
    lattice = np.stack(np.meshgrid(side, side, side, indexing="ij")).reshape(1, 3, 27, 27)
    return bool(np.abs(_to_srgb(lattice, profile) - lattice).max() < ALIKE)


def to_srgb(
    values: Float[ndarray, "1 3 h w"], profile: bytes
) -> tuple[Float[ndarray, "1 3 h w"], Float[ndarray, "1 3 h w"] | None]:
    """Values of a usable profile, in [0, 1], as sRGB in [0, 1], and what sRGB cannot hold.

    The second is what `from_srgb` of the first lacks to give `values` again: zero, or None if nowhere more than half a
    16-bit step, where the colours are inside sRGB's gamut. Grey profiles expect three equal channels.
    """
    if is_srgb(profile):
        return values, None
    pixels = _to_srgb(values, profile)
    rest = values - from_srgb(pixels, profile)
    return pixels, rest if np.abs(rest).max() > 0.5 / 65535 else None


def from_srgb(pixels: Float[ndarray, "1 3 h w"], profile: bytes) -> Float[ndarray, "1 3 h w"]:
    """sRGB in [0, 1] as values of a usable profile, cut to [0, 1]; grey profiles channel by channel."""
    if is_srgb(profile):
        return pixels
    light, srgb = _light(profile), _srgb()
    if light is None:
        return _by_littlecms(pixels, profile, back=True)
    if colour_space(profile) == GREY:
        return _convert(pixels, srgb.curves, np.eye(3), light.curves * 3)
    return _convert(pixels, srgb.curves, np.linalg.inv(light.matrix) @ srgb.matrix, light.curves)


def convert_by_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """A CMYK or LAB image as 8-bit sRGB; raises ImageCms.PyCMSError or OSError for a damaged profile."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert converted is not None  # only for inPlace
    return converted


def lab_profile() -> bytes:
    """Of Pillow's mode LAB."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def _to_srgb(values: ndarray, profile: bytes) -> ndarray:
    light, srgb = _light(profile), _srgb()
    if light is None:
        return _by_littlecms(values, profile, back=False)
    if colour_space(profile) == GREY:
        return _convert(values, light.curves * 3, np.eye(3), srgb.curves)
    return _convert(values, light.curves, np.linalg.inv(srgb.matrix) @ light.matrix, srgb.curves)


def _convert(
    pixels: ndarray, curves: tuple[Curve, ...], matrix: NDArray[np.float64], targets: tuple[Curve, ...]
) -> ndarray:
    """To light by `curves`, through `matrix`, cut to [0, 1] and back to values by `targets`."""
    places = np.linspace(0, 1, KNOTS)
    flat = pixels.reshape(3, -1)
    result = np.empty(flat.shape, np.float32)
    for start in range(0, flat.shape[1], SLICE):
        part = flat[:, start : start + SLICE]
        light = np.stack([np.interp(row, places, curve) for row, curve in zip(part, curves, strict=True)])
        mixed = matrix @ light
        for row, curve, out in zip(mixed, targets, result, strict=True):
            out[start : start + SLICE] = np.interp(row, curve, places)  # cuts to [0, 1]
    return result.reshape(pixels.shape)


@functools.cache
def _srgb() -> Light:
    light = _light(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    assert light is not None
    return light


@functools.lru_cache(maxsize=16)
def _light(profile: bytes) -> Light | None:
    """A profile of curves and matrix, or of one grey curve; None for another or damaged one."""
    try:
        tags = _tags(profile)
        if profile[20:24] != b"XYZ " or b"A2B0" in tags:  # a table goes before the matrix (ICC.1:2022, 8.2)
            return None
        if colour_space(profile) == GREY:
            return Light((_curve(tags[b"kTRC"]),), np.ones((3, 1)))
        columns = [np.array(struct.unpack(">3i", tags[name][8:20])) / 65536 for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
        curves = tuple(_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC"))
    except (KeyError, ValueError, struct.error):
        return None
    matrix = np.stack(columns, axis=1)
    return Light(curves, matrix) if abs(np.linalg.det(matrix)) > 1e-4 else None


def _tags(profile: bytes) -> dict[bytes, bytes]:
    """The tag table (ICC.1:2022, 7.3)."""
    (count,) = struct.unpack(">I", profile[128:132])
    if count > 200:
        raise ValueError(f"{count} tags")
    entries = [struct.unpack(">4sII", profile[132 + 12 * i : 144 + 12 * i]) for i in range(count)]
    return {name: profile[offset : offset + size] for name, offset, size in entries}


def _curve(tag: bytes) -> Curve:
    """A `curv` or `para` tag (ICC.1:2022, 10.6 and 10.18) as a table; raises ValueError unless it rises from 0 to 1."""
    x = np.linspace(0, 1, KNOTS)
    if tag[:4] == b"curv":
        (count,) = struct.unpack(">I", tag[8:12])
        entries = np.frombuffer(tag[12 : 12 + 2 * count], ">u2")
        if len(entries) != count:
            raise ValueError("a cut-off curve")
        if count < 2:
            y = x ** (entries[0] / 256 if count else 1.0)
        else:
            y = np.interp(x, np.linspace(0, 1, count), entries / 65535)
    elif tag[:4] == b"para":
        (kind,) = struct.unpack(">H", tag[8:10])
        number = (1, 3, 4, 5, 7)[kind] if kind < 5 else 0
        gamma, *rest = (value / 65536 for value in struct.unpack(f">{number}i", tag[12 : 12 + 4 * number]))
        a, b, c, d, e, f = [*rest, *(1.0, 0.0, 0.0, 0.0, 0.0, 0.0)[len(rest) :]]
        if kind in (1, 2):  # the straight part ends where the power begins to rise, and is flat
            c, d, e, f = 0.0, -b / a, (c if kind == 2 else 0.0), (c if kind == 2 else 0.0)
        y = np.where(x >= d, np.maximum(a * x + b, 0.0) ** gamma + e, c * x + f)
    else:
        raise ValueError(f"curve type {tag[:4]!r}")
    y = np.clip(y, 0, 1)
    if not (np.isfinite(y).all() and (np.diff(y) >= 0).all() and y[0] < 0.05 and y[-1] > 0.95):
        raise ValueError("not a rising curve")
    return y


def _littlecms(profile: bytes, back: bool) -> ImageCms.ImageCmsTransform | None:
    """8-bit RGB to sRGB or back; None where the profile is damaged or has no table for that way."""
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        source, target = (srgb, own) if back else (own, srgb)
        return ImageCms.buildTransform(
            source,
            target,
            "RGB",
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ImportError):  # ImportError: a Pillow built without LittleCMS
        return None


def _by_littlecms(pixels: ndarray, profile: bytes, back: bool) -> ndarray:
    transform = _littlecms(profile, back)
    assert transform is not None  # see is_usable
    samples = np.round(pixels[0].clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    image = transform.apply(Image.fromarray(np.ascontiguousarray(samples)))
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)[None] / np.float32(255))
