"""Laws of the training code that need no run: settings, learning rate, order of samples, sheets, losses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchscaler.models.autoencoder import STRIDE
from patchscaler.training import loop
from patchscaler.training.adversarial import FeatureDiscriminator
from patchscaler.training.decoding import Square, grid_energy, pixel_square
from patchscaler.training.latents import squares_at
from patchscaler.training.settings import RunSettings, build
from patchscaler.training.validation import mean_figures, sheet

law = settings(deadline=None, max_examples=50)


def test_whole_numbers_are_floats_where_floats_are_meant() -> None:
    run = build(RunSettings, {"folder": "x", "learning_rate": 1, "max_hours": 2, "betas": [0, 1]})
    assert (run.learning_rate, run.max_hours, run.betas) == (1.0, 2.0, (0.0, 1.0))
    assert type(run.learning_rate) is type(run.max_hours) is float


runs = st.builds(
    RunSettings,
    folder=st.just("x"),
    steps=st.integers(1, 500),
    warmup_steps=st.integers(0, 300),
    decay_steps=st.integers(0, 300),
)


@law
@given(runs, st.integers(0, 499))
def test_the_learning_rate_warms_up_and_decays(run: RunSettings, step: int) -> None:
    step = min(step, run.steps - 1)
    factor = loop.learning_rate_at(step, run)
    assert 0 < factor <= 1
    warm, decaying = step + 1 < run.warmup_steps, bool(run.decay_steps) and run.steps - step < run.decay_steps
    following = loop.learning_rate_at(step + 1, run)
    if not (warm or decaying):
        assert factor == 1
    if warm and not decaying:
        assert following > factor or run.decay_steps
    if decaying and not warm:
        assert following < factor
    assert abs(following - factor) <= max(1 / max(1, run.warmup_steps), 1 / max(1, run.decay_steps)) + 1e-12


@law
@given(runs)
def test_the_learning_rate_ends_at_zero_where_it_decays(run: RunSettings) -> None:
    end = loop.learning_rate_at(run.steps, run)
    assert end == 0 if run.decay_steps else end > 0


def test_a_sheet_holds_pictures_of_different_sizes() -> None:
    one, small = torch.full((1, 3, 4, 6), 0.5), torch.full((1, 3, 2, 3), 2.0)
    picture = sheet([[one, one], [small, small]])
    assert picture.size == (12, 6)
    assert picture.getpixel((0, 0)) == (128, 128, 128)
    assert picture.getpixel((0, 4)) == (255, 255, 255)
    assert picture.getpixel((6, 4)) == (0, 0, 0)


def test_grid_energy_sees_what_repeats() -> None:
    torch.manual_seed(0)
    noise = torch.randn(4, 3, 96, 100)
    pattern = torch.randn(4, 3, 16, 16).repeat(1, 1, 6, 7)[..., :100]
    assert 0.8 < float(grid_energy(noise, 16)) < 1.2
    assert float(grid_energy(pattern, 16)) == pytest.approx(36 * float(pattern[..., :16, :16].var()), rel=0.05)
    shade = torch.full((1, 3, 32, 32), 0.3)  # is no pattern
    assert float(grid_energy(shade, 16)) == pytest.approx(0, abs=1e-9)


@given(st.integers(0, 2**31), st.integers(1, 16))
def test_a_compared_square_lies_in_its_patch_and_begins_at_any_pixel(seed: int, side: int) -> None:
    square = Square.draw(16, side, torch.Generator().manual_seed(seed))
    assert all(0 <= place <= 16 - square.latents for place in square.place)
    rows = torch.arange(16.0 * STRIDE)[:, None].expand(1, 3, -1, 16 * STRIDE)
    cut = square.cut(pixel_square(rows, square.place, square.latents))
    assert cut.shape == (1, 3, STRIDE * side, STRIDE * side)
    assert cut[0, 0, 0, 0] == STRIDE * square.place[0] + square.start[0]
    assert square.start == (0, 0) if side == 16 else max(square.start) < STRIDE


def test_each_sample_gives_the_square_at_its_own_place_with_its_gradient() -> None:
    planes = torch.randn(3, 2, 9, 8, requires_grad=True)
    top, left = torch.tensor([0, 2, 5]), torch.tensor([4, 0, 3])
    squares = squares_at(planes, top, left, 4)
    wanted = [
        planes[i, :, t : t + 4, v : v + 4] for i, (t, v) in enumerate(zip(top.tolist(), left.tolist(), strict=True))
    ]
    assert torch.equal(squares, torch.stack(wanted))
    (gradient,) = torch.autograd.grad(squares.sum(), planes)
    assert gradient.sum() == squares.numel()
    assert gradient[1, 0, 2:6, :4].eq(1).all()
    assert gradient[1, 0, 6:].eq(0).all()


def test_a_discriminator_judges_both_batches_in_one_pass_as_one_by_one() -> None:
    torch.manual_seed(0)
    discriminator = FeatureDiscriminator((4, 8), width=8).eval()  # in training each pass turns the spectral norm on
    real, fake = ([torch.rand(2, 4, 16, 16), torch.rand(2, 8, 8, 8)] for _ in range(2))
    for got, features in zip(discriminator.both(real, fake), (real, fake), strict=True):
        for logits, wanted in zip(got, discriminator(features), strict=True):
            torch.testing.assert_close(logits, wanted)


def test_figures_are_averaged_over_all_and_by_condition() -> None:
    rows = [("mild", {"psnr": 20.0}), ("mild", {"psnr": 24.0}), ("camera", {"psnr": 31.0})]
    assert mean_figures(rows) == {"psnr": 25.0, "psnr_mild": 22.0, "psnr_camera": 31.0}
    assert mean_figures(rows[:2]) == {"psnr": 22.0}
