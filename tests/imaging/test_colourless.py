"""Black and white stays so, by what the picture shows rather than by how many channels its file has."""

import numpy as np
import pytest
from PIL import Image

from arrays import uniform
from icc_profiles import DISPLAY_P3, rgb_profile
from patchscaler.imaging.files import Picture, read_picture, write_picture
from patchscaler.imaging.picture import is_colourless


@pytest.mark.parametrize("kind", ["file", "image", "array"])
def test_grey_in_grey_out(tiny_pipeline, tmp_path, kind):
    samples = np.random.default_rng(0).integers(0, 256, (24, 20), dtype=np.uint8)
    array = np.repeat(samples[:, :, None], 3, axis=2)
    Image.fromarray(array).save(tmp_path / "bw.png")
    source = {"file": tmp_path / "bw.png", "image": Image.fromarray(array), "array": array}[kind]
    result = np.asarray(tiny_pipeline(source, steps=(1, 1, 1)).images[0])
    assert result.shape == (96, 80, 3)  # its channels are those of the input
    assert (np.ptp(result, axis=2) == 0).all()
    array[3, 4] = (200, 90, 10)  # a spot of colour, and the picture is one of colours
    result = np.asarray(tiny_pipeline(array, steps=(1, 1, 1)).images[0])
    assert np.ptp(result, axis=2).max() > 0


@pytest.mark.parametrize("bits", [8, 16])
def test_a_wide_profile_gives_grey_no_colour(tmp_path, bits):
    pixels = np.repeat(uniform(1, 1, 40, 50), 3, axis=1)
    like = Picture(pixels, bits=bits, icc_profile=rgb_profile(*DISPLAY_P3))
    write_picture(tmp_path / "out.png", pixels, like=like)
    read = read_picture(tmp_path / "out.png")
    assert is_colourless(read.pixels)
    with Image.open(tmp_path / "out.png") as image:
        assert np.ptp(np.asarray(image), axis=2).max() == 0
