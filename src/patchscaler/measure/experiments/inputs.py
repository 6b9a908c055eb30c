"""The pictures of an experiment: pairs that a folder holds, or sharp pictures made small."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from patchscaler.data.degradation import degrade_at
from patchscaler.data.pairs import CONDITIONS
from patchscaler.data.reading import picture_files
from patchscaler.data.testsets import pair_folders
from patchscaler.errors import DataError
from patchscaler.imaging.files import read_picture
from patchscaler.imaging.geometry import SCALE
from patchscaler.measure.experiments.setting import Setting
from patchscaler.measure.quality.pairing import pair_results, pictures_by_stem

SMALLEST = 64  # px of a sharp picture's side
T = TypeVar("T")


class Sample(NamedTuple):
    """name of its file; condition: what made it small ("given": not us); hr (1,3,4h,4w), lr (1,3,h,w) in [0,1]."""

    name: str
    condition: str
    hr: Tensor
    lr: Tensor


def read_samples(setting: Setting) -> list[Sample]:
    """The setting's pictures. The n-th one's degradation is a function of (seed, n). Raises DataError."""
    pairs = pair_folders(setting.data)
    if pairs is not None:
        references = pictures_by_stem(pairs.hr)
        inputs = pair_results(pairs.lr, references)
        chosen = spread(list(references), setting.pictures)
        return [_given(stem, references[stem], inputs[stem], setting.side) for stem in chosen]
    samples = []
    for number, path in enumerate(spread(picture_files(setting.data), setting.pictures)):
        hr = _middle(torch.from_numpy(read_picture(path).pixels), setting.side or max(read_picture(path).size), 16)
        if min(hr.shape[-2:]) < SMALLEST:
            raise DataError(f"{path}: sharp pictures need sides of {SMALLEST} pixels; take it out of the folder")
        condition = setting.conditions[number % len(setting.conditions)]
        lr = degrade_at(hr[0].contiguous(), CONDITIONS[condition], setting.seed, number)[None]
        samples.append(Sample(path.stem, condition, hr, lr))
    return samples


def spread(items: Sequence[T], count: int) -> list[T]:
    """`count` of the items (0: all), evenly spread and always the same."""
    if not count or count >= len(items):
        return list(items)
    return [items[int((number + 0.5) * len(items) / count)] for number in range(count)]


def _given(stem: str, reference: Path, small: Path, side: int) -> Sample:
    hr, lr = (torch.from_numpy(read_picture(each).pixels) for each in (reference, small))
    if hr.shape[-2:] != (SCALE * lr.shape[-2], SCALE * lr.shape[-1]):
        raise DataError(f"{small}: {tuple(lr.shape[-2:])} enlarged x{SCALE} is not {reference.name}'s size")
    if side:
        lr = _middle(lr, side // SCALE, 1)
        hr = _middle(hr, side, SCALE)
    return Sample(stem, "given", hr, lr)


def _middle(pixels: Tensor, side: int, multiple: int) -> Tensor:
    """The middle of a picture, its sides at most `side` and multiples of `multiple`, as are its distances from the edge
    in pairs: those of a small picture and a large one belong together."""
    sizes = [min(side, length) // multiple * multiple for length in pixels.shape[-2:]]
    step = SCALE if multiple == SCALE else 1
    top, left = ((n - size) // 2 // step * step for n, size in zip(pixels.shape[-2:], sizes, strict=True))
    return pixels[..., top : top + sizes[0], left : left + sizes[1]].contiguous()
