"""A picture in memory: from PIL images, numpy arrays and tensors, at its full depth, and back to rounded samples."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy import ndarray
from numpy.typing import NDArray
from PIL import Image, ImageCms

from patchscaler.imaging.geometry import Size
from patchscaler.imaging.icc import GREY, colour_space, convert_by_profile, is_usable, lab_profile, to_srgb
from patchscaler.imaging.metadata import Metadata, read_metadata
from patchscaler.imaging.shapes import Float, Shaped
from patchscaler.imaging.sixteen_bit import BITS, PHOTOMETRIC
from patchscaler.imaging.transfer import from_gamma, odd_gamma

ROUNDING = 1e-3  # a quarter of an 8-bit step


@dataclass(frozen=True)
class Picture:
    """A picture upright, and what its file said about it.

    pixels       (1,3,H,W) float32 sRGB in [0, 1], whatever the file's profile
    alpha        (1,1,H,W) float32 in [0, 1], not premultiplied, or None
    mode         Pillow's name of the file's mode: "RGB", "L", "P", "CMYK", "I;16"; and "RGB;16" and the like
    bits         8 or 16 per sample
    grey         the file had no colours
    exif         EXIF block with the orientation reset, or None
    icc_profile  the file's grey or RGB profile, in which it shall be written again, or None: sRGB
    beyond       (1,3,H,W) values of that profile which the colours outside sRGB need in addition, or None
    dpi          horizontal and vertical pixels per inch, or None
    xmp, iptc    an XMP packet and IPTC-IIM records, or None
    texts        a PNG's remarks by keyword; a JPEG's or GIF's under "Comment"
    remarks      what was odd about the file, and which of its parts are not here, each in some words
    """

    pixels: Float[ndarray, "1 3 h w"]
    alpha: Float[ndarray, "1 1 h w"] | None = None
    mode: str = "RGB"
    bits: int = 8
    grey: bool = False
    exif: bytes | None = None
    icc_profile: bytes | None = None
    dpi: tuple[float, float] | None = None
    beyond: Float[ndarray, "1 3 h w"] | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def metadata(self) -> Metadata:
        return Metadata(self.exif, self.xmp, self.iptc, self.texts, self.dpi)

    @property
    def size(self) -> Size:
        return Size(*self.pixels.shape[-2:])


def to_pil(
    pixels: Shaped[ndarray, "1 3 h w"], alpha: Shaped[ndarray, "1 1 h w"] | None = None, grey: bool = False
) -> Image.Image:
    """An 8-bit PIL picture (RGB, RGBA, or L, LA if `grey`) of `pixels`, by `quantise`."""
    samples = quantise(pixels, alpha, grey, np.uint8)
    return Image.fromarray(samples[:, :, 0] if samples.shape[2] == 1 else samples)


def quantise(
    pixels: ndarray, alpha: ndarray | None, grey: bool, dtype: type[np.uint8] | type[np.uint16]
) -> NDArray[Any]:
    """(1,3,H,W) and (1,1,H,W) to (H,W,C) samples, clamped and rounded to nearest, plane by plane.

    Float planes lie in [0, 1]; planes of whole numbers in [0, their type's largest], and stay as they are where they
    can.
    """
    if pixels.ndim != 4 or pixels.shape[:2] != (1, 3) or (alpha is not None and alpha.shape[2:] != pixels.shape[2:]):
        shapes = f"{pixels.shape} with alpha {None if alpha is None else alpha.shape}"
        raise ValueError(f"a picture must be (1,3,H,W), its alpha (1,1,H,W), got {shapes}")
    planes = [(plane, _largest(pixels)) for plane in ([luma(*pixels[0])] if grey else pixels[0])]
    if alpha is not None:
        planes.append((alpha[0, 0], _largest(alpha)))
    samples, peak = np.empty((*pixels.shape[2:], len(planes)), dtype), np.iinfo(dtype).max
    for index, (plane, largest) in enumerate(planes):
        exact = largest == peak and plane.dtype.kind == "u"
        samples[:, :, index] = plane if exact else np.rint((plane * np.float32(peak / largest)).clip(0, peak))
    return samples


def _largest(plane: ndarray) -> int:
    """What stands for full intensity."""
    return 1 if plane.dtype.kind == "f" else int(np.iinfo(plane.dtype).max)


def as_float(plane: ndarray) -> ndarray:
    """Samples of whole numbers to [0, 1]; float ones as they are."""
    return plane if plane.dtype.kind == "f" else plane / np.float32(_largest(plane))


def luma(red: ndarray, green: ndarray, blue: ndarray) -> ndarray:
    """Full-range luma of BT.601, float32."""
    return np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue


def is_colourless(pixels: Float[ndarray, "1 3 h w"]) -> bool:
    """Whether every pixel is grey, but for the rounding of a conversion."""
    # Some rows at a time: the first with a colour settles it, and no second picture lies in memory.
    starts = range(0, pixels.shape[2], 256)
    bands = (pixels[0, :, top : top + 256] for top in starts)
    return all(np.abs(rows[1:] - rows[:1]).max() < ROUNDING for rows in bands)


def without_colour(pixels: Float[ndarray, "1 3 h w"]) -> Float[ndarray, "1 3 h w"]:
    """Three equal channels of the same luma."""
    return np.broadcast_to(luma(*pixels[0]), pixels.shape)


def decode(image: Image.Image, deep: NDArray[np.uint16] | None) -> Picture:
    """The Picture of a PIL image; `deep` are its 16-bit colour samples (H,W,C), where Pillow has only 8."""
    mode, icc = image.mode, image.info.get("icc_profile") or None
    if deep is not None:
        key = image.info.get("transparency")
        if isinstance(key, tuple):  # PNG's tRNS: one colour is transparent
            opaque = (deep != np.array(key, np.uint16)).any(axis=2, keepdims=True)
            deep = np.concatenate([deep, opaque * np.uint16(65535)], axis=2, dtype=np.uint16)
        mode = {2: "LA;16", 3: "RGB;16", 4: "RGBA;16"}[deep.shape[2]]
        picture = _from_samples(deep)
    elif mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):
        mode = "I;16"
        picture = _from_samples(_grey_samples(image))
    else:
        eight, converted = _to_eight_bit(image)
        if mode == "CMYK" and max(getattr(image, "tag_v2", {}).get(BITS, (8,))) > 8:
            mode = "CMYK;16"
        icc = None if converted else icc
        samples = np.asarray(eight)
        picture = _from_samples(samples[:, :, None] if samples.ndim == 2 else samples)
    data, orientation, words = read_metadata(image)
    if gamma := odd_gamma(image.info):
        picture = replace(picture, pixels=from_gamma(picture.pixels, gamma))
        words.append(f"values of gamma {1 / gamma:.3g} became sRGB's")
    pixels, beyond, icc = _managed(picture, icc)
    return replace(
        picture,
        pixels=_upright(pixels, orientation),
        alpha=None if picture.alpha is None else _upright(picture.alpha, orientation),
        beyond=None if beyond is None else _upright(beyond, orientation),
        mode=mode,
        icc_profile=icc,
        remarks=tuple(words),
        **vars(data),
    )


def _managed(picture: Picture, icc: bytes | None) -> tuple[ndarray, ndarray | None, bytes | None]:
    """Pixels as sRGB, what sRGB cannot hold, and the profile; None if it is damaged or of other colours than these."""
    if icc is None or (colour_space(icc) == GREY) != picture.grey or not is_usable(icc):
        return picture.pixels, None, None
    return *to_srgb(picture.pixels, icc), icc


def _grey_samples(image: Image.Image) -> NDArray[np.uint16]:
    """(H,W,1), or (H,W,2) with alpha, of a 16-bit grey image."""
    samples = np.asarray(image).astype(np.uint16)[:, :, None]
    tags = getattr(image, "tag_v2", {})
    if tags.get(BITS) == (12,):
        samples = np.round(samples * (65535 / 4095)).astype(np.uint16)
    if tags.get(PHOTOMETRIC) == 0:  # white is zero
        samples = 65535 - samples
    key = image.info.get("transparency")
    if isinstance(key, int):
        samples = np.concatenate([samples, (samples != key) * np.uint16(65535)], axis=2, dtype=np.uint16)
    return samples


def _to_eight_bit(image: Image.Image) -> tuple[Image.Image, bool]:
    """The image as L, LA, RGB or RGBA, and whether its ICC profile was applied."""
    clear = image.has_transparency_data
    if image.mode in ("1", "L", "LA", "La"):
        return image.convert("LA" if clear else "L"), False
    if image.mode in ("RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "YCbCr", "HSV"):
        return image.convert("RGBA" if clear else "RGB"), False
    if image.mode in ("CMYK", "LAB"):
        profile = image.info.get("icc_profile") if image.mode == "CMYK" else lab_profile()
        try:
            return (convert_by_profile(image, profile) if profile else image.convert("RGB")), True
        except (ImageCms.PyCMSError, OSError, ImportError):  # a damaged profile, or Pillow built without LittleCMS
            return image.convert("RGB"), True
    raise ValueError(f"mode {image.mode} is not supported")


def _upright(plane: ndarray, orientation: int) -> ndarray:
    """Undo EXIF orientation 1 to 8 (EXIF 2.32, tag 0x0112) on (...,H,W)."""
    if orientation in (5, 6, 7, 8):
        plane = plane.swapaxes(-2, -1)
    flips = {2: (-1,), 3: (-2, -1), 4: (-2,), 6: (-1,), 7: (-2, -1), 8: (-2,)}.get(orientation, ())
    return np.ascontiguousarray(np.flip(plane, flips))


def from_tensor(tensor: Any) -> Picture:
    """A torch tensor (3,H,W) or (1,3,H,W)."""
    if tensor.ndim == 3:
        tensor = tensor[None]
    if tensor.ndim != 4 or tensor.shape[:2] != (1, 3) or tensor.numel() == 0:
        raise ValueError(f"a tensor picture must be (3,H,W) or (1,3,H,W), got {tuple(tensor.shape)}")
    if not tensor.is_floating_point():
        raise ValueError(f"a tensor picture must be float in [0, 1], got {tensor.dtype}")
    pixels = tensor.detach().cpu().float().numpy()
    _check_range(float(pixels.min()), float(pixels.max()))
    return Picture(pixels.clip(0, 1))


def from_array(array: NDArray[Any]) -> Picture:
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise ValueError(f"an array picture must be (H,W), (H,W,3) or (H,W,4), got {array.shape}")
    if array.dtype.kind == "f":
        _check_range(float(array.min()), float(array.max()))
        array = array.clip(0, 1)
    elif array.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"an array picture must be uint8, uint16 or float in [0, 1], got {array.dtype}")
    picture = _from_samples(array[:, :, None] if array.ndim == 2 else array)
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[1 if array.ndim == 2 else array.shape[2]]
    return replace(picture, mode=mode if picture.bits == 8 else {"L": "I;16"}.get(mode, f"{mode};16"))


def _check_range(lowest: float, highest: float) -> None:
    if not (lowest >= -ROUNDING and highest <= 1.0 + ROUNDING):  # also false for NaN
        raise ValueError(f"float pixels must lie in [0, 1], got [{lowest:g}, {highest:g}]; divide or clamp them first")


def _from_samples(samples: NDArray[Any]) -> Picture:
    """Samples (H,W,C) of uint8, uint16 or float in [0, 1], C as in `sixteen_bit`, to planes."""
    peak = np.iinfo(samples.dtype).max if samples.dtype.kind == "u" else 1
    planes = np.empty((samples.shape[2], *samples.shape[:2]), np.float32)
    np.divide(samples.transpose(2, 0, 1), np.float32(peak), out=planes, casting="unsafe")
    grey, has_alpha = samples.shape[2] < 3, samples.shape[2] in (2, 4)
    colours = planes[:-1] if has_alpha else planes
    return Picture(
        pixels=(np.repeat(colours, 3, axis=0) if grey else np.ascontiguousarray(colours))[None],
        alpha=planes[None, -1:] if has_alpha else None,
        bits=16 if peak == 65535 else 8,
        grey=grey,
    )
