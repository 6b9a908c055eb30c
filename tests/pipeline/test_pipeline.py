"""Laws of the whole pipeline, on small real networks: size, seed, groups, inputs, outputs, progress."""

import json

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from made_pictures import as_tensor
from patchscaler import PatchScalerPipeline
from patchscaler.errors import ConfigError
from patchscaler.imaging.colour import wavelet_colour_fix
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.resize import resize_bicubic
from patchscaler.models.latents import decode_latents
from patchscaler.options import PAPER_STEPS
from patchscaler.pgs.noise import place_noise
from patchscaler.report import Progress

law = settings(deadline=None, max_examples=15)
FEW = (1, 2, 3)
MIXED = (0.96, 0.9545)  # thresholds that give the test networks' `photo` patches of more than one group
PATCH, STEP, STRIDE = 16, 12, 8  # latents per patch side and between patches, pixels per latent


def pixels_of(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def assert_close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


# Size


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 5), (127, 93), (64, 42)])
def test_size_is_four_times_the_input(tiny_pipeline: PatchScalerPipeline, height: int, width: int) -> None:
    result = tiny_pipeline(pixels_of(height, width), steps=FEW, output_type="pt")
    assert result.images.shape == (1, 3, 4 * height, 4 * width)
    assert result.report.input_size == (height, width)
    assert result.report.output_size == (4 * height, 4 * width)
    assert result.confidence.shape == (1, 1, -(-height // 2), -(-width // 2))


@law
@given(height=st.integers(1, 40), width=st.integers(1, 40))
def test_size_and_range_for_any_picture(tiny_pipeline: PatchScalerPipeline, height: int, width: int) -> None:
    result = tiny_pipeline(pixels_of(height, width), steps=(0, 1, 1), output_type="pt")
    assert result.images.shape == (1, 3, 4 * height, 4 * width)
    assert 0 <= result.images.min() <= result.images.max() <= 1
    assert 0 < result.confidence.min() <= result.confidence.max() <= 1


# Seed, batches and tiles


def test_the_seed_decides_everything_random(tiny_pipeline: PatchScalerPipeline, photo: Image.Image) -> None:
    torch.manual_seed(1)
    first = tiny_pipeline(photo, seed=5, steps=FEW, output_type="pt").images
    torch.manual_seed(2)
    assert torch.equal(first, tiny_pipeline(photo, seed=5, steps=FEW, output_type="pt").images)
    assert not torch.allclose(first, tiny_pipeline(photo, seed=6, steps=FEW, output_type="pt").images, atol=1e-2)


def test_a_generator_draws_the_seed(tiny_pipeline: PatchScalerPipeline, photo: Image.Image) -> None:
    def run(seed: int):
        return tiny_pipeline(photo, generator=torch.Generator().manual_seed(seed), steps=FEW, output_type="pt")

    first = run(5)
    assert torch.equal(first.images, run(5).images)
    assert first.report.seed != run(6).report.seed
    again = tiny_pipeline(photo, seed=first.report.seed, steps=FEW, output_type="pt")
    assert torch.equal(first.images, again.images)


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_the_batch_size_changes_nothing(
    tiny_pipeline: PatchScalerPipeline, photo: Image.Image, batch_size: int
) -> None:
    whole = tiny_pipeline(photo, gammas=MIXED, steps=FEW, batch_size=64, output_type="pt")
    parts = tiny_pipeline(photo, gammas=MIXED, steps=FEW, batch_size=batch_size, output_type="pt")
    assert_close(parts.images, whole.images)
    assert torch.equal(parts.groups, whole.groups)


def test_chunks_of_patches_change_nothing(
    tiny_pipeline: PatchScalerPipeline, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, seen = tiny_pipeline(photo, gammas=MIXED, steps=FEW, output_type="pt"), []
    monkeypatch.setattr("patchscaler.stages.executor.SET_SIZE", 4)
    parts = tiny_pipeline(photo, gammas=MIXED, steps=FEW, output_type="pt", on_progress=seen.append)
    assert_close(parts.images, whole.images)
    assert [p.done for p in seen if p.stage == "prompt"] == [4, 6]
    assert max(p.done for p in seen if p.stage == "sample") == parts.report.patch_steps == whole.report.patch_steps


def test_two_tiles_are_decoded_as_one(tiny_pipeline: PatchScalerPipeline) -> None:
    """130 latents are three tiles of the decoder."""
    pixels = pixels_of(6, 260)
    result = tiny_pipeline(pixels, steps=(0, 0, 0), output_type="pt")
    coarse, _ = tiny_pipeline.restore(pixels[None])
    assert_close(result.images, finish(tiny_pipeline, coarse, pixels[None]))


# The way of one picture, by other means


@torch.no_grad()
def finish(pipeline: PatchScalerPipeline, latents: Tensor, pixels: Tensor) -> Tensor:
    """Latents -> result: decoded in one piece, with the colours of the input."""
    size = Size(4 * pixels.shape[2], 4 * pixels.shape[3])
    decoded = decode_latents(pipeline.autoencoder, latents)[..., : size.height, : size.width]
    fixed = wavelet_colour_fix(decoded.numpy(), resize_bicubic(pixels.numpy(), size))
    return torch.from_numpy(fixed).clamp(0, 1)


def origins(length: int) -> list[int]:
    """Patches every STEP latents, the last one flush with the border."""
    return sorted({*range(0, length - PATCH, STEP), length - PATCH})


@torch.no_grad()
def plain_sampling(
    pipeline: PatchScalerPipeline, pixels: Tensor, seed: int, grid_steps: int, last: int, use_texture: bool
) -> Tensor:
    """Every patch on its own through the last of `grid_steps` steps of diffusers' loop, then blended by loops."""
    coarse, log_error = pipeline.restore(pixels)
    height, width = coarse.shape[2:]
    noise = torch.from_numpy(place_noise(seed, coarse.shape[1], 0, 0, height, width))
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(grid_steps)
    ramp = torch.sin(torch.pi / 2 * (torch.arange(4) + 0.5) / 4) ** 2
    side = torch.cat([ramp, torch.ones(PATCH - 8), ramp.flip(0)])
    window = side[:, None] * side
    total, weights = torch.zeros_like(coarse), torch.zeros(height, width)
    for top in origins(height):
        for left in origins(width):
            here = (..., slice(top, top + PATCH), slice(left, left + PATCH))
            texture = pipeline.prompt(coarse[here]) if use_texture else None
            times = scheduler.timesteps[-last:]
            x = scheduler.add_noise(coarse[here], noise[here], times[:1])
            for t in times:
                x0 = pipeline.patch_dit(x, t[None], coarse[here], log_error[here], texture)
                x = scheduler.step(x0, int(t), x, eta=0.0).prev_sample
            total[here] += window * x
            weights[here] += window
    return finish(pipeline, total / weights, pixels)


@pytest.mark.parametrize("use_texture", [True, False])
@pytest.mark.parametrize(("group", "gammas", "last"), [("hard", (1.0, 0.9999), 20), ("simple", (0.2, 0.1), 8)])
def test_one_group_is_plain_sampling(
    tiny_pipeline: PatchScalerPipeline,
    photo: Image.Image,
    group: str,
    gammas: tuple[float, float],
    last: int,
    use_texture: bool,
) -> None:
    result = tiny_pipeline(photo, seed=3, steps=PAPER_STEPS, gammas=gammas, use_texture=use_texture, output_type="pt")
    assert result.report.patches[group] == result.groups.numel() == 6
    expected = plain_sampling(tiny_pipeline, as_tensor(photo)[None], 3, 20, last, use_texture)
    assert_close(result.images, expected, tolerance=2e-4)


def test_zero_steps_are_the_restorers_output(tiny_pipeline: PatchScalerPipeline, photo: Image.Image) -> None:
    result = tiny_pipeline(photo, steps=(0, 0, 0), output_type="pt")
    pixels = as_tensor(photo)[None]
    assert_close(result.images, finish(tiny_pipeline, tiny_pipeline.restore(pixels).latents, pixels))
    first = tiny_pipeline(photo, steps=(0, 0, 0), denoise=0.0, output_type="pt")
    even = torch.nn.functional.pad(pixels, (0, 1, 0, 1), mode="replicate")  # 45x61 in cells of 2x2
    assert_close(first.images, finish(tiny_pipeline, tiny_pipeline.restorer(even).latents, pixels))
    assert (first.images - result.images).abs().max() > 0.01
    assert result.report.patch_steps == 0


def test_the_texture_prompt_has_an_effect(tiny_pipeline: PatchScalerPipeline, photo: Image.Image) -> None:
    prompted = tiny_pipeline(photo, steps=FEW, output_type="pt")
    plain = tiny_pipeline(photo, steps=FEW, output_type="pt", use_texture=False)
    assert (prompted.images - plain.images).abs().max() > 1e-3
    assert "prompt" in prompted.report.stages
    assert "prompt" not in plain.report.stages


# Outputs


def test_output_types_agree(tiny_pipeline: PatchScalerPipeline, photo: Image.Image) -> None:
    pil, array, tensor = (tiny_pipeline(photo, steps=FEW, output_type=kind).images for kind in ("pil", "np", "pt"))
    assert array.shape == (1, 180, 244, 3)
    assert array.dtype == np.float32
    assert np.array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    assert np.array_equal(np.asarray(pil[0]), np.round(array[0] * 255).astype(np.uint8))
    (alone,) = tiny_pipeline(photo, steps=FEW, output_type="pt", return_dict=False)
    assert torch.equal(alone, tensor)


def test_progress_is_monotone_and_complete(tiny_pipeline: PatchScalerPipeline, photo: Image.Image) -> None:
    seen: list[Progress] = []
    report = tiny_pipeline(photo, gammas=MIXED, steps=FEW, batch_size=2, on_progress=seen.append).report
    stages = [progress.stage for progress in seen]
    expected = ["restore", "second", "prompt", "sample", "decode", "colour"]
    assert list(dict.fromkeys(stages)) == expected == list(report.stages)
    for stage in report.stages:
        units = [progress for progress in seen if progress.stage == stage]
        done = [progress.done for progress in units]
        assert done == sorted(set(done))
        assert {progress.total for progress in units} == {done[-1]}
    assert [p.total for p in seen if p.stage == "sample"][-1] == report.patch_steps


def test_the_report_adds_up(tiny_pipeline: PatchScalerPipeline, photo: Image.Image) -> None:
    result = tiny_pipeline(photo, seed=9, gammas=MIXED, steps=FEW)
    report = result.report
    assert sum(report.patches.values()) == result.groups.numel() == len(result.patch_boxes)
    assert len([count for count in report.patches.values() if count]) > 1
    assert list(report.patches.values()) == torch.bincount(result.groups.flatten(), minlength=3).tolist()
    assert report.steps == {"simple": 1, "medium": 2, "hard": 3}
    assert report.patch_steps == sum(report.patches[name] * report.steps[name] for name in report.steps)
    assert (report.seed, report.device, report.dtype) == (9, "cpu", "float32")
    assert all(stage["seconds"] >= 0 and stage["peak_mib"] > 0 for stage in report.stages.values())
    assert json.loads(json.dumps(report.as_dict()))["patch_steps"] == report.patch_steps


@law
@given(height=st.integers(1, 70), width=st.integers(1, 70))
def test_the_boxes_cover_the_picture(tiny_pipeline: PatchScalerPipeline, height: int, width: int) -> None:
    result = tiny_pipeline(pixels_of(height, width), steps=(0, 0, 0), output_type="pt")
    rows, cols = result.groups.shape
    assert len(result.patch_boxes) == rows * cols
    covered = np.zeros((4 * height, 4 * width), bool)
    for number, (top, left, box_height, box_width) in enumerate(result.patch_boxes):
        assert 0 <= top < top + box_height <= min(4 * height, top + PATCH * STRIDE)
        assert 0 <= left < left + box_width <= min(4 * width, left + PATCH * STRIDE)
        assert (top, left) == (result.patch_boxes[number // cols * cols][0], result.patch_boxes[number % cols][1])
        covered[top : top + box_height, left : left + box_width] = True
    assert covered.all()


def test_a_box_and_its_group_belong_together(tiny_pipeline: PatchScalerPipeline, photo: Image.Image) -> None:
    result = tiny_pipeline(photo, gammas=MIXED, steps=(0, 0, 0))
    for (top, left, _, _), group in zip(result.patch_boxes, result.groups.flatten(), strict=True):
        row, col = top // STRIDE, left // STRIDE
        mean = result.confidence[0, 0, row : row + PATCH, col : col + PATCH].mean()
        assert group == sum(float(mean) < gamma for gamma in MIXED)


# Errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"scale": 9}, "scale 9"),
        ({"scale": 3, "output_type": "latent"}, "of pictures x4"),
        ({"output_type": "jpeg"}, "output_type"),
        ({"steps": (3, 2, 1)}, "steps"),
        ({"steps": (1, 2)}, "2 steps"),
        ({"steps": (-1, 2, 3)}, "steps"),
        ({"gammas": (0.5, 0.9)}, "gammas"),
        ({"taus": (400, 700, 1001)}, "taus"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_wrong_settings_are_named(tiny_pipeline: PatchScalerPipeline, arguments: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tiny_pipeline(pixels_of(3, 3), **arguments)
