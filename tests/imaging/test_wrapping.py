"""Textures that tile: their borders continue on the opposite side, at any size, by every way in."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from arrays import assert_close, uniform
from command_files import Call
from patchscaler import Upscaler
from patchscaler.imaging.files import read_picture
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.resize import resize_bicubic
from patchscaler.imaging.wrapping import resize_wrapped


@pytest.fixture(scope="module")
def trained_upscaler() -> Upscaler:
    return Upscaler(device="cpu")


def bricks(height: int = 40, width: int = 56) -> np.ndarray:
    """A rough texture of which many can be laid side by side."""
    noise = np.fft.rfft2(np.random.default_rng(3).standard_normal((3, height, width)))
    rows, cols = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    texture = np.fft.irfft2(noise / (0.05 + np.hypot(rows, cols)), (height, width))
    low, high = np.quantile(texture, (0.01, 0.99))
    return ((texture - low) / (high - low)).clip(0, 1).transpose(1, 2, 0).astype(np.float32)


def steps_at(plane: np.ndarray, places: Size) -> list[float]:
    """Mean steps of (n,c,h,w) from the row, and the column, before each place, in 8-bit levels."""
    pairs = [
        (plane.take(place, axis), plane.take(place - 1, axis)) for axis, place in zip((-2, -1), places, strict=True)
    ]
    return [255 * float(np.abs(after - before).mean()) for after, before in pairs]


def compare(upscaler: Upscaler, texture: np.ndarray, part: str, **options: Any) -> list[tuple[float, float, float]]:
    """Steps across the border of rows and columns: as it is, with `wrap`, and of the same places within a picture."""
    plain, wrapped, inside = (
        getattr(upscaler(picture, wrap=wrap, denoise=0.0, **options), part)
        for picture, wrap in (
            (texture, False),
            (texture, True),
            (np.roll(texture, (texture.shape[0] // 2, texture.shape[1] // 2), (0, 1)), False),
        )
    )
    assert plain.shape == wrapped.shape
    middle = Size(*(side // 2 for side in plain.shape[-2:]))
    border = Size(0, 0)
    return list(zip(steps_at(plain, border), steps_at(wrapped, border), steps_at(inside, middle), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1, 2.5, 4, 6])
def test_the_step_across_the_border_is_no_larger_than_inside(trained_upscaler, scale) -> None:
    options = {"scale": scale, "steps": (0, 2, 2), "gammas": (1.0, 0.5)}
    for plain, wrapped, inside in compare(trained_upscaler, bricks(), "pixels", **options):
        assert wrapped <= 1.1 * inside  # whose noise is another
        assert scale == 1 or wrapped < 0.8 * plain


def test_what_is_told_of_patches_is_about_the_picture(tiny_upscaler) -> None:
    previews = []
    result = tiny_upscaler(bricks(), wrap=True, steps=(1, 1, 1), on_preview=lambda p: previews.append((p, p.draw(100))))
    output, size = result, result.size
    assert output.report.output_size == size == (160, 224)
    assert output.confidence.shape[-2:] == (20, 28)
    assert output.groups.size == len(output.patch_boxes)
    assert all(
        t + h > 0 and left + w > 0 and t < size.height and left < size.width for t, left, h, w in output.patch_boxes
    )
    assert previews[0][1].shape[-2:] == (80, 112)
    assert previews[0][0].patch_boxes == output.patch_boxes
    assert result.history.endswith(", wrap")


def test_a_texture_of_one_pixel_and_of_one_line(tiny_upscaler) -> None:
    for height, width in ((1, 1), (1, 70), (3, 5)):
        result = tiny_upscaler(bricks(height, width), wrap=True, steps=(0, 0, 0))
        assert result.size == (4 * height, 4 * width)


def test_resizing_is_the_usual_one_but_at_the_border() -> None:
    pixels = uniform(1, 3, 31, 44, seed=0)
    for size in (Size(90, 100), Size(31, 20), Size(12, 44)):
        wrapped = resize_wrapped(pixels, size)
        tiled = resize_bicubic(np.tile(pixels, (1, 1, 3, 3)), Size(*(3 * side for side in size)), clamp=True)
        expected = tiled[..., size.height : 2 * size.height, size.width : 2 * size.width]
        assert_close(wrapped, expected, atol=1e-4, rtol=0)


def test_clear_places_tile_too(trained_upscaler) -> None:
    alpha = np.where(bricks()[..., :1] > 0.4, 1.0, 0.0).astype(np.float32)
    cut_out = np.concatenate([bricks(), alpha], axis=2)
    for _, wrapped, inside in compare(trained_upscaler, cut_out, "alpha", steps=(0, 0, 0)):
        assert wrapped <= 1.1 * inside


def test_on_the_command_line(upscale: Call, tmp_path) -> None:
    Image.fromarray((255 * bricks()).round().astype(np.uint8)).save(tmp_path / "bricks.png")
    answer = upscale("bricks.png", "--wrap", "--qmap", "map.png", "--report", "report.json")
    assert (answer.code, answer.err) == (0, "")
    assert "56x40 -> 224x160" in answer.out
    assert read_picture(tmp_path / "bricks_x4.png").size == (160, 224)
    assert read_picture(tmp_path / "map.png").size.height > 160
