"""Sizes, height before width everywhere, and how picture, latents and result lie over each other."""

from typing import NamedTuple

SCALE = 4  # enlargement of one pass of the model
STRIDE = 8  # d: pixels of the result per latent, along each side
CELL = STRIDE // SCALE  # pixels of the picture per latent


class Size(NamedTuple):
    """Height and width in pixels (or latent cells, where the name says so)."""

    height: int
    width: int

    def __str__(self) -> str:
        """As people write it, width first."""
        return f"{self.width}x{self.height}"

    def times(self, factor: int) -> "Size":
        return Size(factor * self.height, factor * self.width)

    def latents(self) -> "Size":
        """Of a picture of this size."""
        return Size(-(-self.height // CELL), -(-self.width // CELL))
