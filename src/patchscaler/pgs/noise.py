"""Noise that belongs to the place: one endless field per seed, of which any crop can be drawn on its own."""

import functools

import numpy as np
from numpy.typing import NDArray

from patchscaler.errors import ConfigError

BLOCK = 16  # side of the cells drawn at once; changing it changes every field


def place_noise(seed: int, channels: int, top: int, left: int, height: int, width: int) -> NDArray[np.float32]:
    """Crop the standard normal field of `seed` at rows [top, top + height) and columns [left, left + width).

    Every value depends on (seed, channel, row, column) alone: neither on the crop nor on the number of channels. So the
    result is the same for any batch size, order, tile, device count or resume, and overlapping patches share noise.

    The bits are numpy's Philox, a counter-based generator whose stream numpy promises never to change, with the block's
    place as counter and the seed as key; Box-Muller in float64, rounded once, makes them normal on every platform alike
    (a mathematical library's last bit can move about one value in 1e8 by one float32 step).

    seed     in [0, 2**63)
    returns  (1,channels,height,width)

    Raises ConfigError for a seed out of range, a negative place or an empty crop.
    """
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed {seed} must lie in [0, 2**63)")
    if top < 0 or left < 0 or min(channels, height, width) < 1:
        raise ConfigError(
            f"cannot crop {channels} channels of {height}x{width} at row {top}, column {left}: "
            "the place must be non-negative and the crop not empty"
        )
    rows = range(top // BLOCK, (top + height - 1) // BLOCK + 1)
    cols = range(left // BLOCK, (left + width - 1) // BLOCK + 1)
    field = np.empty((channels, len(rows) * BLOCK, len(cols) * BLOCK), np.float32)
    for i, row in enumerate(rows):
        for j, col in enumerate(cols):
            field[:, i * BLOCK : (i + 1) * BLOCK, j * BLOCK : (j + 1) * BLOCK] = _block(seed, channels, row, col)
    y, x = top - rows[0] * BLOCK, left - cols[0] * BLOCK
    return field[None, :, y : y + height, x : x + width].copy()


@functools.lru_cache(maxsize=512)  # a few lines of patches of a large picture, 32 KiB a cell
def _block(seed: int, channels: int, row: int, col: int) -> NDArray[np.float32]:
    """One cell (channels, BLOCK, BLOCK), kept because up to four patches share it.

    The draw runs channel by channel, so more channels keep the first ones.
    """
    # Philox counts up in the low words of its 256-bit counter: with the place in the high ones no two cells ever meet.
    philox = np.random.Philox(key=np.array([seed, 0], np.uint64), counter=np.array([0, 0, row, col], np.uint64))
    bits = philox.random_raw(channels * BLOCK * BLOCK // 2)
    halves = np.stack([bits >> np.uint64(32), bits & np.uint64(0xFFFFFFFF)])
    first, second = (halves + 0.5) / 2.0**32
    radius, angle = np.sqrt(-2 * np.log(first)), 2 * np.pi * second
    normal = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return normal.reshape(channels, BLOCK, BLOCK).astype(np.float32)
