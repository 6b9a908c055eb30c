"""Patch-adaptive Group Sampling: groups, their times, the sampling loop and the noise that belongs to the place.

The names below are for other people's models. What needs torch (`refine` and what it takes and returns) is loaded when
it is first used; the rest is numpy.
"""

from typing import TYPE_CHECKING, Any

from patchscaler.imaging.geometry import Size
from patchscaler.imaging.tiles import Tile
from patchscaler.pgs.groups import GroupConfig

if TYPE_CHECKING:
    from patchscaler.pgs.plug_in import PatchDenoiser, Refined, pool_confidence, refine

__all__ = ["GroupConfig", "PatchDenoiser", "Refined", "Size", "Tile", "pool_confidence", "refine"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from patchscaler.pgs import plug_in

    return getattr(plug_in, name)
