"""JPEG XL in and out, with the extra `jxl`; without it, what to do is said."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pillow_jxl")

from icc_profiles import SRGB
from patchscaler.imaging.files import PICTURE_SUFFIXES, Picture, losses, read_picture, write_picture
from patchscaler.imaging.searching import is_result


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("clear", [False, True])
def test_there_and_back(tmp_path: Path, grey: bool, clear: bool) -> None:
    random = np.random.default_rng(0)
    samples = random.integers(0, 256, (1, 1 if grey else 3, 11, 14)).astype(np.float32)
    pixels = np.ascontiguousarray(np.broadcast_to(samples / 255, (1, 3, 11, 14)))
    alpha = random.integers(0, 256, (1, 1, 11, 14)).astype(np.float32) / 255 if clear else None
    tags = Image.Exif()
    tags[0x010F] = "Maker"
    like = Picture(pixels, alpha=alpha, grey=grey, exif=tags.tobytes(), icc_profile=None if grey else SRGB)
    write_picture(tmp_path / "a.jxl", pixels, like=like, lossless=True, history="made")
    read = read_picture(tmp_path / "a.jxl")
    assert (read.size, read.grey) == ((11, 14), grey)
    np.testing.assert_allclose(read.pixels, pixels, atol=1e-6)
    if clear:
        np.testing.assert_allclose(read.alpha, alpha, atol=1e-6)
    assert read.exif is not None
    assert b"Maker" in read.exif
    assert is_result(tmp_path / "a.jxl")
    write_picture(tmp_path / "b.jxl", pixels, quality=90)
    assert np.abs(read_picture(tmp_path / "b.jxl").pixels - pixels).mean() < 0.1
    assert ".jxl" in PICTURE_SUFFIXES
    assert losses(Picture(pixels, bits=16), "JXL") == ["16 bits became 8"]


def test_without_the_package_the_cure_is_named(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.jxl", np.zeros((1, 3, 4, 4), np.float32))
    code = """
import sys
sys.modules["pillow_jxl"] = None
from patchscaler.errors import ImageReadError
from patchscaler.imaging.files import FORMATS, read_picture
assert ".jxl" not in FORMATS
try:
    read_picture("a.jxl")
except ImageReadError as error:
    print(error)
"""
    answer = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.stdout == (
        "a.jxl: a JPEG XL picture, which needs one more package; pip install 'patchscaler[jxl]', or save it as PNG or "
        "JPEG\n"
    ), answer.stderr
