"""The size that a call asks for, by a scale or in pixels."""

import math
from fractions import Fraction

from patchscaler.errors import ConfigError
from patchscaler.imaging.geometry import Size

SMALLEST, LARGEST = 1, 8  # of the enlargement


def target_size(
    size: Size,
    *,
    scale: int | float | None = None,
    width: int | None = None,
    height: int | None = None,
    max_side: int | None = None,
) -> Size:
    """The size asked for, in the proportions of `size`, each side rounded to nearest and at least 1.

    Raises ConfigError where scale and a size are both given, and where the enlargement is not within 1 to 8.
    """
    bounds = {"width": (width, size.width), "height": (height, size.height), "max_side": (max_side, max(size))}
    factors = {name: Fraction(value, side) for name, (value, side) in bounds.items() if value is not None}
    check_size(scale, width, height, max_side)
    factor = min(factors.values(), default=Fraction(str(4 if scale is None else scale)))
    if not SMALLEST <= factor <= LARGEST:
        name = next(name for name, value in factors.items() if value == factor)
        asked = f"{name} {bounds[name][0]} of a picture of {size} means x{float(factor):.3g}"
        cure = "it is larger already" if factor < SMALLEST else "enlarge it twice, or ask for less"
        raise ConfigError(f"{asked}, outside x{SMALLEST} to x{LARGEST}; {cure}")
    return Size(*(max(1, math.floor(side * factor + Fraction(1, 2))) for side in size))


def check_size(scale: int | float | None, width: int | None, height: int | None, max_side: int | None) -> None:
    """Raises ConfigError where a scale and a size are both given, and unless the scale is within 1 to 8."""
    sizes = {"width": width, "height": height, "max_side": max_side}
    named = [name for name, value in sizes.items() if value is not None]
    if scale is not None and named:
        raise ConfigError(f"scale {scale:g} and {' and '.join(named)} contradict each other; give one of them")
    if scale is not None and not SMALLEST <= scale <= LARGEST:  # also for NaN
        raise ConfigError(f"scale {scale:g} must lie between {SMALLEST} (restore only) and {LARGEST}")
