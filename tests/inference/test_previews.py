"""What is shown while a picture is being made: from the coarse one to the result, whole or small."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from patchscaler import PatchScalerPipeline
from patchscaler.report import Preview

EXAMPLES = Path(__file__).parents[2] / "examples"
FEW = (1, 2, 3)
MIXED = (0.96, 0.9545)  # thresholds that give the test networks' `photo` patches of more than one group


def assert_close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_previews_go_from_the_coarse_picture_to_the_result(
    tiny_pipeline: PatchScalerPipeline, photo: Image.Image
) -> None:
    """Hard patches change first, simple ones last; looking changes nothing."""
    drawn: list[Tensor] = []

    def look(preview: Preview) -> None:
        drawn.append(preview.draw())
        assert preview.groups.numel() == len(preview.patch_boxes)

    options = {"gammas": MIXED, "output_type": "pt"}
    output = tiny_pipeline(photo, steps=FEW, on_preview=look, **options)
    assert torch.equal(output.images, tiny_pipeline(photo, steps=FEW, **options).images)
    assert len(drawn) == 1 + FEW[-1]
    assert_close(drawn[0], tiny_pipeline(photo, steps=(0, 0, 0), **options).images)
    assert_close(drawn[-1], output.images)

    groups, boxes = output.groups.flatten().tolist(), output.patch_boxes
    changed = (drawn[1] - drawn[0]).abs().amax(dim=(0, 1))
    hard = torch.zeros_like(changed, dtype=torch.bool)
    for group, (top, left, high, wide) in zip(groups, boxes, strict=True):
        if group == max(groups):
            hard[max(top - 40, 0) : top + high + 40, max(left - 40, 0) : left + wide + 40] = True  # decoder and colours
    assert changed[hard].max() > 1e-3
    assert not (~hard).any() or changed[~hard].max() < 1e-3


@pytest.mark.parametrize(("side", "shape"), [(130, (180, 244)), (90, (90, 122)), (40, (45, 61)), (1, (23, 31))])
def test_a_small_preview_is_the_large_one_made_smaller(side: int, shape: tuple[int, int]) -> None:
    """With the bundled weights: what an untrained network makes leaves [0,1] and is cut there."""
    pipe = PatchScalerPipeline.from_pretrained(dtype=torch.float32)
    photo = Image.open(EXAMPLES / "parrot.png").convert("RGB").crop((30, 20, 91, 65))
    drawn: list[tuple[Tensor, Tensor]] = []

    def look(preview: Preview) -> None:
        drawn.append((preview.draw(side), preview.draw()))

    pipe(photo, steps=(1, 1, 1), on_preview=look)
    assert not torch.equal(drawn[0][0], drawn[-1][0])
    for small, large in drawn:
        assert small.shape == (1, 3, *shape)
        reduced = torch.nn.functional.interpolate(large, shape, mode="area")
        assert float((small - reduced).abs().mean()) < 0.025
        assert float((small - reduced).mean().abs()) < 2e-3
