"""Damaged files are read, or cost one line with a cure: no traceback, no half file, bounded memory.

PATCHSCALER_DAMAGED=10000 tries so many of them.
"""

import os
import resource
from pathlib import Path

import numpy as np
import pytest

from damaged_files import damaged, originals
from patchscaler.errors import PatchScalerError
from patchscaler.imaging.files import FORMATS, read_picture, read_size, write_picture
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.picture import Picture
from patchscaler.imaging.resize import resize_bicubic

COUNT = int(os.environ.get("PATCHSCALER_DAMAGED", 200))
WRITTEN = 50  # of so many, one is also written in every format, with its metadata, as a result would be
MAX_PIXELS = 4_000_000  # of a damaged header: 16 bytes a pixel are held, and some more while it is decoded
MOST_MIB = 1500  # beside what the process had before


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    return originals()


def write_in_every_format(picture: Picture, folder: Path) -> None:
    size = Size(*(min(2 * side, 500) for side in picture.size))
    for suffix in FORMATS:
        path = folder / f"out{suffix}"
        write_picture(path, resize_bicubic(picture.pixels, size, clamp=True), like=picture, history="test")
        assert read_picture(path).size == size
        path.unlink()
    assert not list(folder.iterdir())


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def test_whole_files_are_read_and_written(files: list[bytes], tmp_path: Path) -> None:
    for number, data in enumerate(files):
        picture = read_picture(data, frame=0)
        if number % 8 == 0:
            write_in_every_format(picture, tmp_path)


@pytest.mark.filterwarnings("default")  # decoders warn of what they mend
def test_damaged_files_are_read_or_cost_one_line(files: list[bytes], tmp_path: Path) -> None:
    before, refused = peak_mib(), list[str]()
    for number in range(COUNT):
        data = damaged(files, 0, number)
        try:
            picture = read_picture(data, frame=0, max_pixels=MAX_PIXELS)
        except PatchScalerError as error:
            refused.append(str(error))
            continue
        assert picture.size == read_size(data, frame=0, max_pixels=MAX_PIXELS), number
        assert np.isfinite(picture.pixels).all(), number
        if number % WRITTEN == 0:
            write_in_every_format(picture, tmp_path)
    assert 0 < len(refused) < COUNT
    assert [line for line in refused if "\n" in line or "; " not in line] == []
    assert peak_mib() - before < MOST_MIB
