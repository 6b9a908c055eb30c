"""Colours that a file describes without a profile: PNG's gAMA, and the codes of cICP and nclx (ITU-T H.273)."""

import struct
from typing import Any

import numpy as np
from numpy import ndarray

from patchscaler.imaging.shapes import Float

SRGB_GAMMA, ALIKE = 1 / 2.2, 0.02
SRGB_CORNERS = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
HDR = {16: "PQ", 18: "HLG"}
WIDE = {9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}


def from_gamma(values: Float[ndarray, "1 3 h w"], gamma: float) -> Float[ndarray, "1 3 h w"]:
    """Values that are light to the power `gamma`, as sRGB (IEC 61966-2-1)."""
    light = values ** (1 / gamma)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)


def odd_gamma(info: dict[Any, Any]) -> float | None:
    """A PNG's gAMA where it isn't sRGB's, by Pillow's `info`."""
    gamma = info.get("gamma")
    if "srgb" in info or info.get("icc_profile") or not isinstance(gamma, float) or not 0.05 < gamma < 20:
        return None
    return gamma if abs(gamma - SRGB_GAMMA) > ALIKE else None


def colour_remarks(head: bytes, info: dict[Any, Any]) -> list[str]:
    """What of a file's colours is not followed, in words; `head`: its first bytes."""
    words = []
    primaries, curve = _codes(head)
    profile = bool(info.get("icc_profile"))
    if curve in HDR:
        words.append(f"HDR ({HDR[curve]}) was read as standard range, so it looks flat; convert it to sRGB first")
    elif primaries in WIDE and not profile:
        words.append(f"{WIDE[primaries]} colours, given by a code alone, were read as sRGB")
    corners: Any = info.get("chromaticity")
    stated = "srgb" not in info and not profile and isinstance(corners, tuple) and len(corners) == 8
    if stated and max(abs(a - b) for a, b in zip(corners, SRGB_CORNERS, strict=True)) > ALIKE:
        words.append("primary colours of its own (cHRM) were read as sRGB's")
    return words


def _codes(head: bytes) -> tuple[int, int]:
    """Colour primaries and transfer characteristics (H.273, 8.1 and 8.2); 2 is unspecified."""
    if (place := head.find(b"\0\0\0\x04cICP")) >= 0 and len(head) >= place + 10:
        return head[place + 8], head[place + 9]
    if (place := head.find(b"colrnclx")) >= 0 and len(head) >= place + 12:
        primaries, curve = struct.unpack(">2H", head[place + 8 : place + 12])
        return int(primaries), int(curve)
    return 2, 2
