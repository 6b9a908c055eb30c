"""What is shown while a picture is being made: from the coarse one to the result, whole or small."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from arrays import assert_close
from patchscaler import Upscaler
from patchscaler.report import Preview

EXAMPLES = Path(__file__).parents[2] / "examples"
FEW = (1, 2, 3)
MIXED = (0.96, 0.9545)  # thresholds that give the test networks' `photo` patches of more than one group


def test_previews_go_from_the_coarse_picture_to_the_result(tiny_upscaler: Upscaler, photo: Image.Image) -> None:
    """Hard patches change first, simple ones last; looking changes nothing."""
    drawn: list[np.ndarray] = []

    def look(preview: Preview) -> None:
        drawn.append(preview.draw())
        assert preview.groups.size == len(preview.patch_boxes)

    options = {"gammas": MIXED}
    output = tiny_upscaler(photo, steps=FEW, on_preview=look, **options)
    assert np.array_equal(output.pixels, tiny_upscaler(photo, steps=FEW, **options).pixels)
    assert len(drawn) == 1 + FEW[-1]
    assert_close(drawn[0], tiny_upscaler(photo, steps=(0, 0, 0), **options).pixels, atol=1e-4)
    assert_close(drawn[-1], output.pixels, atol=1e-4)

    groups, boxes = output.groups.flatten().tolist(), output.patch_boxes
    changed = np.abs(drawn[1] - drawn[0]).max(axis=(0, 1))
    hard = np.zeros_like(changed, bool)
    for group, (top, left, high, wide) in zip(groups, boxes, strict=True):
        if group == max(groups):
            hard[max(top - 40, 0) : top + high + 40, max(left - 40, 0) : left + wide + 40] = True  # decoder and colours
    assert changed[hard].max() > 1e-3
    assert not (~hard).any() or changed[~hard].max() < 1e-3


@pytest.mark.parametrize(("side", "shape"), [(130, (180, 244)), (90, (90, 122)), (40, (45, 61)), (1, (23, 31))])
def test_a_small_preview_is_the_large_one_made_smaller(side: int, shape: tuple[int, int]) -> None:
    """With the bundled weights: what an untrained network makes leaves [0,1] and is cut there."""
    upscaler = Upscaler(device="cpu")
    photo = Image.open(EXAMPLES / "parrot.png").convert("RGB").crop((30, 20, 91, 65))
    drawn: list[tuple[np.ndarray, np.ndarray]] = []

    def look(preview: Preview) -> None:
        drawn.append((preview.draw(side), preview.draw()))

    upscaler(photo, steps=(1, 1, 1), on_preview=look)
    assert not np.array_equal(drawn[0][0], drawn[-1][0])
    for small, large in drawn:
        assert small.shape == (1, 3, *shape)
        reduced = torch.nn.functional.interpolate(torch.from_numpy(large), shape, mode="area").numpy()
        assert np.abs(small - reduced).mean() < 0.025
        assert abs((small - reduced).mean()) < 2e-3
