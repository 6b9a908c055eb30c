"""Which result belongs to which ground truth: by the stems of their file names."""

from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from patchscaler.errors import DataError
from patchscaler.imaging.files import find_pictures, read_picture
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.unreadable import DECODE_ERRORS

_TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations that swap the sides
_SEPARATORS = "_-."


def pictures_by_stem(folder: Path) -> dict[str, Path]:
    """The pictures of a folder (not of its subfolders) by stem, sorted.

    Raises ImageReadError for a missing or empty folder, DataError where two files share a stem.
    """
    by_stem: dict[str, Path] = {}
    for path in find_pictures([folder]):
        if path.stem in by_stem:
            raise DataError(f"{path}: {by_stem[path.stem].name} has the same stem; keep one of the two")
        by_stem[path.stem] = path
    return by_stem


def pair_results(
    folder: Path, references: Mapping[str, Path], *, left_out: frozenset[str] = frozenset()
) -> dict[str, Path]:
    """One result for every reference: stem of the reference -> file in `folder`.

    A result has its reference's stem, with or without an ending such as "_x4"; the longest stem that fits is taken.
    left_out: stems of further references, whose results are passed over

    Raises DataError where a reference has no result or two, or a result no reference; ImageReadError for no folder.
    """
    paired: dict[str, Path] = {}
    strangers = []
    for stem, path in pictures_by_stem(folder).items():
        beginnings = [stem[:end] for end in range(len(stem), 0, -1) if end == len(stem) or stem[end] in _SEPARATORS]
        reference = next((start for start in beginnings if start in references or start in left_out), None)
        if reference is None:
            strangers.append(path)
            continue
        if reference in paired:
            raise DataError(f"{path}: {paired[reference].name} belongs to {reference} too; keep one of the two")
        paired[reference] = path
    missing = [stem for stem in references if stem not in paired]
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} of {len(references)} pictures are missing, the first is {missing[0]}; "
            "make them, or take their references away"
        )
    if strangers:
        raise DataError(
            f"{strangers[0]}: belongs to no reference ({len(strangers)} such files); move it, or add its reference"
        )
    return {stem: paired[stem] for stem in references}


def check_sizes(results: Mapping[str, Path], references: Mapping[str, Path]) -> None:
    """Raises DataError, with both sizes, for a result that hasn't its reference's size; reads headers alone."""
    for stem, path in results.items():
        size, wanted = picture_size(path), picture_size(references[stem])
        if size != wanted:
            raise DataError(
                f"{path}: {size.height}x{size.width}, but {references[stem]} is {wanted.height}x{wanted.width}; "
                "results must have their reference's size"
            )


def picture_size(path: Path) -> Size:
    """Size of a picture, upright, from its header. Raises ImageReadError."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(0x0112) in _TRANSPOSED
            return Size(image.width, image.height) if turned else Size(image.height, image.width)
    except DECODE_ERRORS:
        return read_picture(path).size  # which says what is wrong with the file


def read_pixels(path: Path) -> Tensor:
    """A picture's pixels (1,3,H,W) in [0,1]. Raises ImageReadError."""
    return torch.from_numpy(read_picture(path).pixels)
