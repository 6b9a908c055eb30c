"""Laws of the training code that need no run: settings, learning rate, order of samples, sheets, losses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchscaler.training import loop
from patchscaler.training.common import sheet
from patchscaler.training.decoding import grid_energy
from patchscaler.training.settings import RunSettings, build

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


@law
@given(st.integers(0, 50), st.integers(0, 50))
def test_a_sampler_is_a_part_of_the_one_before(first: int, last: int) -> None:
    whole, rest = loop.EndlessFrom(0, last), loop.EndlessFrom(first, last)
    assert list(rest) == list(whole)[first:]
    assert len(rest) == len(list(rest))


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
