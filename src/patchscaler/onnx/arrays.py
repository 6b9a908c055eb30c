"""The arithmetic between the networks, in numpy: twins of `imaging` and `diffusion.pgs`, held to them by tests.

Arrays are float32, channels first, without a batch axis: (channels, height, width).
"""

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]


def enlarge_bicubic(pixels: Array, scale: int) -> Array:
    """Twin of `resize_bicubic` to `scale` times the size: Keys' cubic with a = -0.5, taps outside left out."""
    for axis in (1, 2):
        length = pixels.shape[axis]
        centre = (np.arange(scale * length) + 0.5) / scale
        taps = np.floor(centre - 1.5).astype(int)[:, None] + np.arange(4)
        distance = np.abs(taps + 0.5 - centre[:, None])
        near = (1.5 * distance - 2.5) * distance**2 + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        weights = np.where(distance < 1, near, np.where(distance < 2, far, 0)) * ((taps >= 0) & (taps < length))
        weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
        moved = np.moveaxis(pixels, axis, -1)
        taps = taps.clip(0, length - 1)
        resized = sum(moved[..., taps[:, k]] * weights[:, k] for k in range(4))
        pixels = np.ascontiguousarray(np.moveaxis(np.asarray(resized), -1, axis))
    return pixels


def wavelet_colour_fix(result: Array, reference: Array, levels: int = 6) -> Array:
    """Twin of `imaging.colour.wavelet_colour_fix`."""
    low = reference - result
    for level in range(levels):
        for axis in (1, 2):
            positions = np.arange(low.shape[axis])
            before = np.take(low, np.maximum(positions - 2**level, 0), axis)
            after = np.take(low, np.minimum(positions + 2**level, len(positions) - 1), axis)
            low = 0.5 * low + 0.25 * (before + after)
    return result + low


def origins(length: int, patch: int, stride: int) -> list[int]:
    """Twin of `patch_origins`."""
    return [min(start * stride, length - patch) for start in range(math.ceil((length - patch) / stride) + 1)]


def raised_cosine_window(patch: int, overlap: int) -> Array:
    """Twin of `imaging.tiles.raised_cosine_window`."""
    ramp = min(overlap, patch // 2)
    side = np.ones(patch)
    if ramp:
        side[:ramp] = np.sin(np.pi / 2 * (np.arange(ramp) + 0.5) / ramp) ** 2
        side[-ramp:] = side[:ramp][::-1]
    return np.outer(side, side).astype(np.float32)


def split(latents: Array, corners: Sequence[tuple[int, int]], patch: int) -> Array:
    """(c,h,w) -> the patches (B,c,V,V) whose first row and column are `corners`."""
    return np.stack([latents[:, top : top + patch, left : left + patch] for top, left in corners])


def merge(patches: Array, corners: Sequence[tuple[int, int]], window: Array, height: int, width: int) -> Array:
    """(B,c,V,V) -> (c,h,w), at each place the mean of the patches weighted by `window`."""
    total = np.zeros((patches.shape[1] + 1, height, width), np.float32)
    side = patches.shape[-1]
    for patch, (top, left) in zip(patches, corners, strict=True):
        total[:-1, top : top + side, left : left + side] += patch * window
        total[-1, top : top + side, left : left + side] += window
    return total[:-1] / total[-1:]


def plan(taus: Sequence[int], steps: Sequence[int]) -> NDArray[np.int64]:
    """Twin of `pgs.plan`: times[g, k] of group g when k steps remain, -1 being the clean latent."""
    times = np.full((len(steps), max(steps) + 1), -1, np.int64)
    for row, tau, count in zip(times, taus, steps, strict=True):
        row[1 : count + 1] = np.round(np.arange(1, count + 1) * tau / max(count, 1)) - 1
    return times


def sample(
    coarse: Array,
    groups: NDArray[np.int64],
    noise: Array,
    denoise: Callable[[Array, NDArray[np.int64], NDArray[np.int64]], Array],
    alphas_cumprod: Array,
    taus: Sequence[int],
    steps: Sequence[int],
    batch_size: int,
) -> Array:
    """Twin of `pgs.sample` for networks that predict x0 (Eq. 6 and 7); arguments as there."""
    times, remaining = plan(taus, steps), np.asarray(steps)[groups]
    alphas = np.append(alphas_cumprod, np.float32(1)).astype(np.float32)

    def of(time: NDArray[np.int64]) -> Array:
        return alphas[time][:, None, None, None]

    start = of(times[groups, remaining])
    state = np.sqrt(start) * coarse + np.sqrt(1 - start) * noise
    for k in range(max(steps), 0, -1):
        active = np.flatnonzero(remaining >= k)
        for batch in (active[i : i + batch_size] for i in range(0, len(active), batch_size)):
            now, after = times[groups[batch], k], times[groups[batch], k - 1]
            clean = denoise(state[batch], now, batch)
            eps = (state[batch] - np.sqrt(of(now)) * clean) / np.sqrt(1 - of(now))
            state[batch] = np.sqrt(of(after)) * clean + np.sqrt(1 - of(after)) * eps
    return state


def in_tiles(
    run: Callable[[Array], Sequence[Array]], array: Array, tile: int, reach: int, entry: int = 1, exit: int = 1
) -> list[Array]:
    """`run` tile by tile: equal to the whole where an output latent depends on no more than `reach` latents around it.

    run          (1,c,H,W) -> arrays (1,c2,H2,W2)
    tile, reach  in latents
    entry, exit  cells of the input and of the outputs per latent, along each side
    """
    height, width = array.shape[1] // entry, array.shape[2] // entry
    results: list[Array] = []
    for rows, cols in product(spans(height, tile), spans(width, tile)):
        (top, bottom), (left, right) = (rows.start, rows.stop), (cols.start, cols.stop)
        up, before = max(top - reach, 0), max(left - reach, 0)
        crop = array[:, entry * up : entry * (bottom + reach), entry * before : entry * (right + reach)]
        for number, part in enumerate(run(np.ascontiguousarray(crop)[None])):
            if len(results) == number:
                results.append(np.empty((part.shape[1], exit * height, exit * width), np.float32))
            results[number][:, exit * top : exit * bottom, exit * left : exit * right] = part[
                0, :, exit * (top - up) : exit * (bottom - up), exit * (left - before) : exit * (right - before)
            ]
    return results


def neighbourhood_mean(plane: Array, reach: int) -> Array:
    """Of (1,h,w): at each place the mean of those up to `reach` away along both axes, the border repeated."""
    padded = np.pad(plane, ((0, 0), (reach, reach), (reach, reach)), mode="edge")
    for axis in (1, 2):
        padded = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis).mean(axis=-1)
    return padded


def spans(length: int, tile: int) -> list[slice]:
    """[0, length) in equal parts of at most `tile`."""
    count = math.ceil(length / tile)
    return [slice(index * length // count, (index + 1) * length // count) for index in range(count)]
