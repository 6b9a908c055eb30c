"""The map of simple, medium and hard patches."""

import numpy as np
import pytest

from arrays import uniform
from patchscaler.imaging.picture import to_pil
from patchscaler.imaging.qmap import COLOURS, OPACITY, draw_qmap


def test_qmap_paints_each_pixel_by_its_nearest_patch() -> None:
    boxes = [(0, 0, 16, 16), (0, 12, 16, 16), (8, 0, 16, 16), (8, 12, 16, 16)]
    pixels = uniform(1, 3, 24, 28, seed=0)
    groups = np.array([0, 1, 2, 0])
    qmap = draw_qmap(pixels, groups, boxes, ["simple", "medium", "hard"])
    grey = to_pil(pixels, grey=True)
    for y, x in ((0, 0), (11, 13), (11, 14), (12, 13), (23, 27)):
        group = int(groups[2 * (y >= 12) + (x >= 14)])
        wanted = [(1 - OPACITY) * grey.getpixel((x, y)) + OPACITY * value for value in COLOURS[group]]
        assert qmap.getpixel((x, y)) == pytest.approx(wanted, abs=1.01)


def test_qmap_refuses_what_does_not_fit() -> None:
    pixels = np.zeros(
        (
            1,
            3,
            8,
            8,
        ),
        np.float32,
    )
    with pytest.raises(ValueError, match="2 groups, 1 boxes"):
        draw_qmap(pixels, np.array([0, 1]), [(0, 0, 8, 8)], ["simple"])
    with pytest.raises(ValueError, match="from 3 to 3"):
        draw_qmap(pixels, np.array([3]), [(0, 0, 8, 8)], ["simple"])
    with pytest.raises(ValueError, match="not the 2 x 2 places"):
        draw_qmap(pixels, np.array([0, 0]), [(0, 0, 4, 4), (4, 4, 4, 4)], ["simple"])
