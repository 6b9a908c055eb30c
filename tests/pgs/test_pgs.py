"""Laws of Patch-adaptive Group Sampling, and its agreement with diffusers' own loops."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from patchscaler.errors import ConfigError
from patchscaler.pgs.groups import GROUP_NAMES, GroupConfig, assign_groups, count_steps, plan
from patchscaler.pgs.plug_in import sample_with_scheduler
from patchscaler.pgs.sampling import Sampling, clean_latents
from patchscaler.pgs.schedule import make_scheduler
from random_networks import DENOISER

law = settings(deadline=None, max_examples=25)
PREDICTIONS = ("sample", "epsilon", "v_prediction")
Groups = tuple[tuple[float, ...], tuple[int, ...], tuple[int, ...]]
CONFIDENCES = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=12)
PAPER = GroupConfig()


ALPHAS = make_scheduler().alphas_cumprod


def patches(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    coarse, noise = torch.randn(2, count, 3, 8, 8, generator=generator)
    return coarse, noise


def sample(
    coarse: Tensor,
    groups: Tensor,
    noise: Tensor,
    denoiser: Callable[[Tensor, Tensor, Tensor], Tensor],
    config: GroupConfig,
    on_step: Callable[[int, int], None] = lambda done, total: None,
    **options: Any,
) -> Tensor:
    """`Sampling` with a denoiser of tensors."""
    sampling = Sampling(coarse.numpy(), groups.numpy(), noise.numpy(), ALPHAS.numpy(), config, **options)
    for batch in sampling.batches():
        prediction = denoiser(*map(torch.from_numpy, (batch.x_t, batch.t, batch.rows)))
        sampling.advance(batch, prediction.numpy())
        on_step(sampling.done, sampling.total)
    return torch.from_numpy(sampling.latents)


def diffusers_loop(scheduler: DDIMScheduler, coarse: Tensor, noise: Tensor, last: int) -> Tensor:
    """Diffusers' own sampling over the last of twenty trailing steps."""
    scheduler.set_timesteps(20)
    times = scheduler.timesteps[-last:]
    x = scheduler.add_noise(coarse, noise, times[:1].expand(len(coarse)))
    for t in times:
        prediction = DENOISER(x, t.expand(len(x)), torch.arange(len(x)))
        x = scheduler.step(prediction, int(t), x, eta=0.0).prev_sample
    return x


@st.composite
def settings_of_groups(draw: st.DrawFn) -> Groups:
    """Arguments of a GroupConfig; the tests make it, as the runner's shape checks must not run in a strategy."""
    groups = draw(st.integers(1, 4))
    gammas = draw(
        st.lists(st.floats(0, 1, width=32), min_size=groups - 1, max_size=groups - 1, unique=True).map(sorted)
    )
    taus = sorted(draw(st.lists(st.integers(20, 1000), min_size=groups, max_size=groups)))
    steps = sorted(draw(st.lists(st.integers(0, 20), min_size=groups, max_size=groups)))
    return tuple(reversed(gammas)), tuple(taus), tuple(steps)


# Groups


def test_groups_follow_equation_2() -> None:
    confidence = torch.tensor([1.0, 0.95, 0.9499, 0.75, 0.7499, 0.0, float("nan")])
    assert assign_groups(confidence, PAPER.gammas).tolist() == [0, 0, 1, 1, 2, 2, 2]


@law
@given(CONFIDENCES, settings_of_groups())
def test_every_patch_in_one_group_and_less_confidence_never_fewer_steps(values: list[float], drawn: Groups) -> None:
    config = GroupConfig(*drawn)
    confidence = torch.tensor(values).sort(descending=True).values
    groups = assign_groups(confidence, config.gammas)
    assert groups.shape == confidence.shape
    assert groups.dtype == torch.int64
    edges = [float("inf"), *torch.tensor(config.gammas).tolist(), float("-inf")]
    for value, group in zip(confidence.tolist(), groups.tolist(), strict=True):
        assert edges[group + 1] <= value < edges[group]
    assert (torch.tensor(config.steps)[groups].diff() >= 0).all()
    counts = count_steps(groups.numpy(), config)
    assert sum(counts[name] for name in config.names) == len(values)
    assert counts["patch_steps"] == sum(config.steps[group] for group in groups)


def test_counts_carry_the_papers_names() -> None:
    counts = count_steps(np.array([0, 0, 2]), PAPER)
    assert counts == {"simple": 2, "medium": 0, "hard": 1, "patch_steps": 36}
    assert PAPER.names == GROUP_NAMES


# Times


def test_the_papers_groups_are_the_ends_of_one_uniform_grid() -> None:
    times, steps = plan(PAPER)
    assert steps.tolist() == [8, 14, 20]
    assert times[2].tolist() == [-1, *range(49, 1000, 50)]
    assert np.array_equal(times[0, :9], times[2, :9])
    assert np.array_equal(times[1, :15], times[2, :15])


@law
@given(settings_of_groups())
def test_times_rise_from_the_clean_latent_to_tau(drawn: Groups) -> None:
    config = GroupConfig(*drawn)
    times, steps = plan(config)
    for row, count, tau in zip(times, steps.tolist(), config.taus, strict=True):
        assert row[0] == -1
        assert (np.diff(row[: count + 1]) > 0).all()
        assert count == 0 or row[count] == tau - 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gammas": (0.9,)}, "1 gammas make 2 groups, not 3 taus"),
        ({"steps": (8, 14)}, "2 steps"),
        ({"gammas": (0.75, 0.95)}, r"\(0.75, 0.95\) must fall"),
        ({"gammas": (0.95, 0.95)}, "must fall"),
        ({"gammas": (1.5, 0.5)}, "lie in"),
        ({"gammas": (0.95, float("nan"))}, "lie in"),
        ({"taus": (700, 400, 1000)}, "never fall"),
        ({"taus": (0, 400, 1000)}, "at least 1"),
        ({"steps": (8, 20, 14)}, "no fewer steps"),
        ({"steps": (-1, 2, 3)}, "not be negative"),
        ({"taus": (4, 700, 1000)}, "exceed their taus"),
    ],
)
def test_contradictory_groups_are_named(arguments: dict[str, tuple[float, ...]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GroupConfig(**arguments)


def test_steps_are_whole_numbers() -> None:
    with pytest.raises((ConfigError, TypeError)):  # TypeError where the runner checks types first
        GroupConfig(steps=(1.5, 2.5, 3.5))


def test_arguments_out_of_range_are_named() -> None:
    coarse, noise = patches(1)
    groups = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ConfigError, match="500 steps of the noise schedule"):
        plan(PAPER, 500)
    with pytest.raises(ConfigError, match="batch_size 0"):
        sample(coarse, groups, noise, DENOISER, PAPER, batch_size=0)


# Sampling


@law
@given(CONFIDENCES, settings_of_groups(), st.integers(1, 7), st.integers(0, 99))
def test_batch_size_and_order_change_nothing(values: list[float], drawn: Groups, batch_size: int, seed: int) -> None:
    config = GroupConfig(*drawn)
    coarse, noise = patches(len(values), seed)
    groups = assign_groups(torch.tensor(values), config.gammas)
    whole = sample(coarse, groups, noise, DENOISER, config)
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
    shuffled = sample(coarse[order], groups[order], noise[order], DENOISER, config, batch_size=batch_size)
    torch.testing.assert_close(shuffled, whole[order], atol=1e-5, rtol=1e-5)


@law
@given(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.integers(1, 5))
def test_progress_counts_every_patch_step_once(members: list[int], batch_size: int) -> None:
    groups = torch.tensor(members)
    coarse, noise = patches(len(members))
    seen: list[tuple[int, int]] = []
    asked = torch.zeros(len(members), dtype=torch.int64)

    def denoiser(x: Tensor, t: Tensor, index: Tensor) -> Tensor:
        assert len(x) <= batch_size
        asked[index] += 1
        return DENOISER(x, t, index)

    sample(
        coarse,
        groups,
        noise,
        denoiser,
        PAPER,
        batch_size=batch_size,
        on_step=lambda done, total: seen.append((done, total)),
    )
    total = count_steps(groups.numpy(), PAPER)["patch_steps"]
    assert torch.equal(asked, torch.tensor(PAPER.steps)[groups])
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)


def test_zero_steps_keep_the_coarse_latent() -> None:
    coarse, noise = patches(3)
    groups = torch.tensor([0, 1, 2])
    none = GroupConfig(steps=(0, 0, 0))
    some = GroupConfig(steps=(0, 1, 2))
    assert torch.equal(sample(coarse, groups, noise, DENOISER, none), coarse)
    assert torch.equal(sample_with_scheduler(coarse, groups, noise, DENOISER, make_scheduler(), none), coarse)
    result = sample(coarse, groups, noise, DENOISER, some)
    assert torch.equal(result[0], coarse[0])
    assert not torch.allclose(result[1:], coarse[1:])


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_one_group_with_all_steps_is_diffusers_ddim(prediction: str) -> None:
    coarse, noise = patches(5)
    groups = torch.zeros(5, dtype=torch.int64)
    config = GroupConfig(gammas=(), taus=(1000,), steps=(20,))
    scheduler = DDIMScheduler.from_config(make_scheduler().config, prediction_type=prediction)
    expected = diffusers_loop(scheduler, coarse, noise, 20)
    ours = sample(coarse, groups, noise, DENOISER, config, prediction_type=prediction)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)
    lent = sample_with_scheduler(coarse, groups, noise, DENOISER, scheduler, config)
    torch.testing.assert_close(lent, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_each_group_is_the_end_of_diffusers_ddim(prediction: str) -> None:
    coarse, noise = patches(9)
    groups = torch.tensor([2, 0, 1] * 3)
    scheduler = DDIMScheduler.from_config(make_scheduler().config, prediction_type=prediction)
    ours = sample(coarse, groups, noise, DENOISER, PAPER, prediction_type=prediction, batch_size=4)
    lent = sample_with_scheduler(coarse, groups, noise, DENOISER, scheduler, PAPER, batch_size=2)
    for group, steps in enumerate(PAPER.steps):
        members = groups == group
        expected = diffusers_loop(scheduler, coarse[members], noise[members], steps)
        torch.testing.assert_close(ours[members], expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(lent[members], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_clean_latents_are_those_of_diffusers(prediction: str) -> None:
    x, answer = patches(4)
    scheduler = DDIMScheduler.from_config(make_scheduler().config, prediction_type=prediction)
    scheduler.set_timesteps(20)
    for t in scheduler.timesteps[::6]:
        theirs = scheduler.step(answer, t, x).pred_original_sample
        torch.testing.assert_close(clean_latents(x, answer, ALPHAS[t], prediction), theirs)


@pytest.mark.parametrize("solver", [DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler])
def test_any_scheduler_finds_the_clean_latent_of_a_perfect_denoiser(solver: type) -> None:
    coarse, noise = patches(5)
    truth = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    scheduler = solver(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="sample",
        timestep_spacing="trailing",
        **({"clip_sample": False} if solver is DDIMScheduler else {}),
    )
    times: list[int] = []

    def perfect(x: Tensor, t: Tensor, index: Tensor) -> Tensor:
        times.extend(t.tolist())
        return truth[index]

    result = sample_with_scheduler(coarse, torch.arange(5) % 3, noise, perfect, scheduler, PAPER, batch_size=1)
    torch.testing.assert_close(result, truth, atol=1e-4, rtol=1e-4)
    assert times[:8] == list(range(399, 0, -50))
    assert len(times) == 8 * 2 + 14 * 2 + 20
