"""Textures that tile: beyond each border lies the opposite side of the picture.

The picture is padded with itself, enlarged as any other, and cut out again; where it begins, it fades in from what was
made of the same places beyond the opposite border, which is what continues there.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from patchscaler.imaging.geometry import Size
from patchscaler.imaging.picture import Picture

MARGIN = 32  # px of the picture: the networks see about as far, and a patch is as wide
FADE = 16  # px of the picture
SCALE, STRIDE = 4, 8  # of the model; result pixels of a latent


def padded_size(size: Size) -> Size:
    return Size(*(side + 2 * MARGIN for side in size))


def wrapped(four_times: Callable[..., Any]) -> Callable[..., Any]:
    """A call that makes pictures x4, for pictures that tile: what it returns is cut to the picture."""

    def call(picture: Picture, notify: Any, restore_only: bool) -> Any:
        padded = replace(picture, pixels=_padded(picture.pixels))
        return _cut_output(four_times(padded, notify, restore_only), picture.size)

    return call


def wrapped_previews(on_preview: Callable[[Any], None], padded: Size) -> Callable[[Any], None]:
    """`on_preview` for previews of a padded picture of that size."""
    before = Size(*(side - 2 * MARGIN for side in padded))

    def show(preview: Any) -> None:
        groups, boxes = _cut_patches(preview.groups, preview.patch_boxes, before)

        def draw(*side: int) -> Tensor:
            drawn = preview.draw(*(math.ceil(each * max(padded) / max(before)) for each in side))
            factor = SCALE * padded.height / drawn.shape[-2]
            return _cut(drawn, before, SCALE / 2 ** round(math.log2(factor)))

        on_preview(preview._replace(draw=draw, groups=groups, patch_boxes=boxes))

    return show


def _padded(pixels: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1 3 H W"]:
    for axis in (-2, -1):
        length = pixels.shape[axis]
        pixels = pixels.index_select(axis, torch.arange(-MARGIN, length + MARGIN) % length)
    return pixels


def _cut(pixels: Tensor, before: Size, scale: int | float) -> Tensor:
    """Of a padded picture of size `before`, `scale` times as large: (n,c,h,w) without the margin, continuous across its
    borders."""
    margin, fade = round(MARGIN * scale), round(FADE * scale)
    for axis, length in ((-2, math.ceil(before.height * scale)), (-1, math.ceil(before.width * scale))):
        width = min(fade, length)
        inside, beyond = pixels.narrow(axis, margin, length), pixels.narrow(axis, margin + length, width)
        ramp = 0.5 + 0.5 * torch.cos(math.pi * (torch.arange(width, device=pixels.device) + 0.5) / width)
        ramp = ramp[:, None] if axis == -2 else ramp
        begun = torch.lerp(inside.narrow(axis, 0, width), beyond, ramp.to(pixels.dtype))
        pixels = torch.cat([begun, inside.narrow(axis, width, length - width)], axis)
    return pixels


def _cut_output(output: Any, before: Size) -> Any:
    """The same without the margin, in what it says of patches and sizes, too."""
    output.report.input_size, output.report.output_size = before, Size(*(SCALE * side for side in before))
    changed: dict[str, Any] = {"images": _cut(output.images, before, SCALE)}
    if hasattr(output, "groups"):
        changed["groups"], changed["patch_boxes"] = _cut_patches(output.groups, output.patch_boxes, before)
    if hasattr(output, "confidence"):
        start, (high, wide) = MARGIN * SCALE // STRIDE, (-(-side * SCALE // STRIDE) for side in before)
        changed["confidence"] = output.confidence[..., start : start + high, start : start + wide]
    return output._replace(**changed) if hasattr(output, "_replace") else replace(output, **changed)


def _cut_patches(
    groups: Tensor, boxes: list[tuple[int, int, int, int]], before: Size
) -> tuple[Tensor, list[tuple[int, int, int, int]]]:
    """Groups (rows,cols) and boxes of the patches that reach into the picture, from its corner on."""
    margin = MARGIN * SCALE
    moved = [(top - margin, left - margin, high, wide) for top, left, high, wide in boxes]
    cols = groups.shape[1]
    rows_in = [top + high > 0 and top < SCALE * before.height for top, _, high, _ in moved[::cols]]
    cols_in = [left + wide > 0 and left < SCALE * before.width for _, left, _, wide in moved[:cols]]
    kept = [box for n, box in enumerate(moved) if rows_in[n // cols] and cols_in[n % cols]]
    return groups[torch.tensor(rows_in)][:, torch.tensor(cols_in)], kept


def resize_wrapped(pixels: Float[Tensor, "n c h w"], size: Size) -> Float[Tensor, "n c h2 w2"]:
    """`resize_bicubic` of a picture that tiles, clamped to [0, 1]; its four corners stay where they are."""
    for axis, after in ((-2, size.height), (-1, size.width)):
        before = pixels.shape[axis]
        step = before / after
        stretch = max(step, 1.0)  # of the cubic, where it shrinks
        centres = (torch.arange(after, dtype=torch.float64) + 0.5) * step - 0.5
        places = (centres - 2 * stretch).ceil()[:, None] + torch.arange(math.ceil(4 * stretch) + 1)
        weights = _cubic((places - centres[:, None]).abs() / stretch)
        weights = (weights / weights.sum(dim=1, keepdim=True)).to(pixels)
        places = places.long().remainder(before).to(pixels.device)
        shape = (-1, 1) if axis == -2 else (-1,)
        made = torch.zeros_like(pixels.index_select(axis, places[:, 0]))
        for tap in range(places.shape[1]):
            made += weights[:, tap].reshape(shape) * pixels.index_select(axis, places[:, tap])
        pixels = made
    return pixels.clamp_(0, 1)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic with a = -0.5, as in `resize_bicubic`."""
    near = (1.5 * distance - 2.5) * distance.square() + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
