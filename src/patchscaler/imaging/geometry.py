"""Sizes, height before width everywhere."""

from typing import NamedTuple


class Size(NamedTuple):
    """Height and width in pixels (or latent cells, where the name says so)."""

    height: int
    width: int
