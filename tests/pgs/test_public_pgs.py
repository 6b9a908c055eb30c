"""`patchscaler.pgs`: PGS for whoever has a coarse picture, a confidence, a denoiser and a diffusers scheduler."""

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler, HeunDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from patchscaler.errors import ConfigError
from patchscaler.pgs import GroupConfig, Size, Tile, pool_confidence, refine
from patchscaler.pgs.noise import place_noise
from patchscaler.pgs.schedule import make_scheduler
from random_networks import DENOISER

SCHEDULER = make_scheduler()
FOUR = GroupConfig(gammas=(0.8, 0.6, 0.4), taus=(100, 300, 600, 1000), steps=(0, 2, 4, 7))


def coarse_of(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def denoise(x: Tensor, t: Tensor, places: list[Tile]) -> Tensor:
    assert len(x) == len(t) == len(places)
    return DENOISER(x, t, torch.arange(len(x)))


@given(st.integers(1, 30), st.integers(1, 30), st.integers(4, 9), st.integers(0, 3), st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_any_size_any_number_of_groups(height: int, width: int, patch: int, overlap: int, seed: int) -> None:
    coarse = coarse_of(height, width, seed)
    confidence = torch.rand(1, 1, 5, 4, generator=torch.Generator().manual_seed(seed))
    refined = refine(coarse, confidence, denoise, SCHEDULER, FOUR, patch=patch, overlap=overlap)
    assert refined.latents.shape == coarse.shape
    assert refined.groups.numel() == len(refined.places)
    assert torch.equal(refined.evaluations, torch.tensor(FOUR.steps)[refined.groups])
    assert {(place.bottom - place.top, place.right - place.left) for place in refined.places} == {(patch, patch)}
    one = refine(coarse, confidence, denoise, SCHEDULER, FOUR, patch=patch, overlap=overlap, batch_size=1)
    torch.testing.assert_close(one.latents, refined.latents, atol=1e-5, rtol=1e-5)


def test_less_confidence_never_fewer_evaluations() -> None:
    confidence = torch.linspace(1, 0, 24).expand(1, 1, 24, 24)
    refined = refine(coarse_of(24, 24), confidence, denoise, SCHEDULER, FOUR, patch=8, overlap=0)
    assert (refined.evaluations.diff(dim=1) >= 0).all()
    assert refined.evaluations[0].tolist() == [0, 4, 7]


def test_conditioning_is_cropped_where_the_patch_lies() -> None:
    coarse, condition = coarse_of(20, 28), coarse_of(20, 28, 1)

    def to_condition(x: Tensor, t: Tensor, places: list[Tile]) -> Tensor:
        return torch.cat([place.of(condition) for place in places])

    every = GroupConfig(gammas=(), taus=(1000,), steps=(3,))
    refined = refine(coarse, torch.zeros(1, 1, 2, 2), to_condition, SCHEDULER, every, patch=8, overlap=4)
    torch.testing.assert_close(refined.latents, condition, atol=1e-4, rtol=1e-4)


def test_zero_steps_keep_the_coarse_picture() -> None:
    none = GroupConfig(gammas=(), taus=(1,), steps=(0,))
    coarse = coarse_of(19, 11)
    refined = refine(coarse, torch.ones(1, 1, 1, 1), denoise, SCHEDULER, none, patch=8, overlap=3)
    torch.testing.assert_close(refined.latents, coarse)
    assert refined.evaluations.sum() == 0


@pytest.mark.parametrize("kind", [DDIMScheduler, DPMSolverMultistepScheduler, HeunDiscreteScheduler])
def test_one_patch_from_noise_is_diffusers_own_loop(kind: type) -> None:
    scheduler = kind(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="epsilon")
    noise = coarse_of(8, 8, 3)
    every = GroupConfig(gammas=(), taus=(1000,), steps=(6,))
    refined = refine(
        coarse_of(8, 8), torch.ones(1, 1, 8, 8), denoise, scheduler, every, patch=8, noise=noise, from_noise=True
    )
    scheduler.set_timesteps(6)
    x = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(denoise(scheduler.scale_model_input(x, t), t[None], [Tile(0, 8, 0, 8)]), t, x).prev_sample
    torch.testing.assert_close(refined.latents, x, atol=1e-5, rtol=1e-5)
    assert refined.evaluations.item() == len(scheduler.timesteps)


def test_schedulers_that_draw_noise_draw_it_from_the_generator() -> None:
    scheduler = EulerAncestralDiscreteScheduler(prediction_type="epsilon", timestep_spacing="trailing")

    def run(confidence: float, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        sure = torch.full((1, 1, 8, 8), confidence)
        return refine(coarse_of(8, 8), sure, denoise, scheduler, FOUR, patch=8, generator=generator).latents

    assert torch.equal(run(1.0, 1), run(1.0, 2))  # the surest group takes no step
    assert torch.equal(run(0.0, 1), run(0.0, 1))
    assert not torch.allclose(run(0.0, 1), run(0.0, 2), atol=1e-3)


def test_the_noise_is_that_of_the_place_and_the_seed() -> None:
    arguments = (torch.zeros(1, 1, 2, 2), denoise, SCHEDULER, FOUR)
    drawn = refine(coarse_of(12, 12), *arguments, patch=8, overlap=2, seed=4)
    field = torch.from_numpy(place_noise(4, 3, 0, 0, 12, 12))
    assert torch.equal(drawn.latents, refine(coarse_of(12, 12), *arguments, patch=8, overlap=2, noise=field).latents)
    other = refine(coarse_of(12, 12), *arguments, patch=8, overlap=2, seed=5)
    assert not torch.allclose(drawn.latents, other.latents, atol=1e-3)


def test_confidence_of_any_grid() -> None:
    fine = torch.rand(1, 1, 12, 8)
    torch.testing.assert_close(
        pool_confidence(fine, Size(6, 4)), torch.nn.functional.avg_pool2d(fine, 2), atol=1e-6, rtol=1e-6
    )
    assert torch.equal(pool_confidence(fine, Size(12, 8)), fine)
    assert torch.allclose(pool_confidence(torch.full((1, 1, 5, 7), 0.3), Size(9, 2)), torch.tensor(0.3))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"patch": 8, "overlap": 8}, "overlap 8 must lie"),
        ({"patch": 8, "overlap": 2, "batch_size": 0}, "batch_size 0"),
        ({"patch": 8, "overlap": 2, "noise": torch.zeros(1, 3, 8, 9)}, "does not fit latents"),
        ({"patch": 8, "overlap": 2, "seed": -1}, "seed -1"),
    ],
)
def test_what_does_not_fit_is_named(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        refine(coarse_of(10, 10), torch.zeros(1, 1, 1, 1), denoise, SCHEDULER, FOUR, **options)
