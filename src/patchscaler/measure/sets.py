"""The pictures that are measured: what a folder holds, sharp pictures made small, pairs cut out, pictures as they are.

What is made on the way lies in a folder:

    FOLDER/hr/STEM.png                ground truth with sides that are multiples of 16
    FOLDER/ceiling/STEM.png           the ground truth through the autoencoder
    FOLDER/CONDITION/lr/STEM.png      degraded input
    FOLDER/CONDITION/NAME/STEM.png    results: bicubic, restorer, patchscaler, ...

Inputs that come from a folder have no condition, and their results lie in FOLDER/NAME.
"""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from torch import Tensor

from patchscaler.data.degradation import degrade_at
from patchscaler.data.pairs import CONDITIONS, validation_pictures
from patchscaler.data.reading import picture_files
from patchscaler.data.testsets import HR_FOLDERS, LR_FOLDERS, pair_folders, recognise
from patchscaler.errors import DataError
from patchscaler.imaging.files import write_picture
from patchscaler.measure.models import SCALE
from patchscaler.measure.pairing import pair_results, pictures_by_stem, read_pixels
from patchscaler.measure.rows import Section

SMALLEST = 64  # px of a sharp picture's side
GIVEN = "given"
T = TypeVar("T")


class Source(NamedTuple):
    """Folders of ground truths and of pictures to be enlarged; one of them, or both where they belong together."""

    sharp: Path | None
    small: Path | None


def look(folder: Path, no_reference: bool = False) -> Source:
    """What a folder holds: a test set's pairs; pictures to be enlarged without a ground truth, where it is a set of
    such (RealSet65, ...), has only their subfolder or no_reference says so; else sharp pictures. Raises DataError."""
    pairs, layout = pair_folders(folder), recognise(folder).layout
    small = next((folder / name for name in LR_FOLDERS if (folder / name).is_dir()), None)
    if pairs is not None and not no_reference:
        return Source(pairs.hr, pairs.lr)
    if no_reference or small is not None or (layout is not None and layout.small_alone):
        return Source(None, small or folder)
    return Source(next((folder / name for name in HR_FOLDERS if (folder / name).is_dir()), folder), None)


def write_inputs(
    pictures: Path, folder: Path, conditions: Sequence[str], count: int, focus: str, on_picture: Callable[[], None]
) -> list[Section]:
    """A section for each condition: ground truths as they are measured against, and degraded inputs.

    The first `count` pictures (all when 0), degraded by `validation_pictures` with seed 0.
    Raises DataError for two pictures with one stem, and as `validation_pictures` does.
    """
    references: dict[str, Path] = {}
    sections = []
    for condition in conditions:
        section = Section(condition, focus, references, {})
        for path, hr, lr in itertools.islice(validation_pictures(pictures, condition), count or None):
            if path.stem in (section.inputs or {}):
                raise DataError(f"{path}: another picture has the same stem; rename one of the two")
            if path.stem not in references:
                _write(references, path.stem, folder / "hr", hr)
            _write(section.inputs, path.stem, folder / condition / "lr", lr)
            on_picture()
        sections.append(section)
    return sections


class Samples(NamedTuple):
    """The pictures of an experiment as one section, and what made each small: a condition, or GIVEN."""

    section: Section
    conditions: dict[str, str]

    @property
    def names(self) -> list[str]:
        return [f"{stem} ({condition})" for stem, condition in self.conditions.items()]


def open_samples(
    source: Source, folder: Path, *, count: int, side: int, conditions: Sequence[str], seed: int
) -> Samples:
    """`count` of the source's pictures (0: all), evenly spread, as files in `folder`.

    side        of the middle that is taken of each, in pixels of the result; 0: whole pictures
    conditions  take turns in making sharp pictures small; the n-th one's degradation is a function of (seed, n)

    Raises DataError.
    """
    samples = Samples(Section(None, "", {} if source.sharp else None, {}), {})

    def add(stem: str, condition: str, hr: Tensor | None, lr: Tensor) -> None:
        if stem in samples.conditions:
            raise DataError(f"{stem}: two pictures have this name; rename one of them")
        samples.conditions[stem] = condition
        if hr is not None:
            _write(samples.section.references, stem, folder / "hr", hr)
        _write(samples.section.inputs, stem, folder / "lr", lr)

    if source.small is not None:
        references = pictures_by_stem(source.sharp) if source.sharp else None
        inputs = pictures_by_stem(source.small) if references is None else pair_results(source.small, references)
        for stem in spread(list(inputs), count):
            hr = None if references is None else read_pixels(references[stem])
            lr = read_pixels(inputs[stem])
            if hr is not None and hr.shape[-2:] != (SCALE * lr.shape[-2], SCALE * lr.shape[-1]):
                size = tuple(lr.shape[-2:])
                raise DataError(f"{inputs[stem]}: {size} enlarged x{SCALE} is not the size of its ground truth")
            if side:
                lr = middle(lr, side // SCALE, 1)
                hr = hr if hr is None else middle(hr, side, SCALE)
            add(stem, GIVEN, hr, lr)
        return samples
    assert source.sharp is not None
    for number, path in enumerate(spread(picture_files(source.sharp), count)):
        pixels = read_pixels(path)
        hr = middle(pixels, side or max(pixels.shape[-2:]), 16)
        if min(hr.shape[-2:]) < SMALLEST:
            raise DataError(f"{path}: sharp pictures need sides of {SMALLEST} pixels; take it out of the folder")
        condition = conditions[number % len(conditions)]
        add(path.stem, condition, hr, degrade_at(hr[0].contiguous(), CONDITIONS[condition], seed, number)[None])
    return samples


def spread(items: Sequence[T], count: int) -> list[T]:
    """`count` of the items (0: all), evenly spread and always the same."""
    if not count or count >= len(items):
        return list(items)
    return [items[int((number + 0.5) * len(items) / count)] for number in range(count)]


def middle(pixels: Tensor, side: int, multiple: int) -> Tensor:
    """The middle of a picture, its sides at most `side` and multiples of `multiple`, as are its distances from the edge
    in pairs: those of a small picture and a large one belong together."""
    sizes = [min(side, length) // multiple * multiple for length in pixels.shape[-2:]]
    step = SCALE if multiple == SCALE else 1
    top, left = ((n - size) // 2 // step * step for n, size in zip(pixels.shape[-2:], sizes, strict=True))
    return pixels[..., top : top + sizes[0], left : left + sizes[1]].contiguous()


def _write(files: dict[str, Path] | None, stem: str, folder: Path, pixels: Tensor) -> None:
    assert files is not None
    folder.mkdir(parents=True, exist_ok=True)
    files[stem] = folder / f"{stem}.png"
    write_picture(files[stem], pixels.numpy())
