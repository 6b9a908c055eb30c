"""Patch-DiT for sampling is Patch-DiT: the same function, with what depends on time folded into its weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from patchscaler import PatchDiT
from patchscaler.models.folded_dit import FoldedDiT, _gelu_

law = settings(deadline=None, max_examples=20)


def network(prediction_type: str = "sample", prompt_limit: float | None = None) -> PatchDiT:
    """Every parameter random, so that no modulation is zero."""
    torch.manual_seed(0)
    sizes = {"latent_channels": 4, "sample_size": 8, "width": 32, "depth": 2, "heads": 2, "texture_width": 16}
    made = PatchDiT(**sizes, prediction_type=prediction_type, prompt_limit=prompt_limit)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made.eval()


def inputs(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x_t, coarse = (torch.randn(count, 4, 8, 8, generator=generator) for _ in range(2))
    return x_t, coarse, torch.randn(count, 1, 8, 8, generator=generator)


@law
@given(count=st.integers(1, 5), step=st.integers(0, 999), seed=st.integers(0, 9), with_texture=st.booleans())
@torch.no_grad()
def test_folding_changes_nothing(count: int, step: int, seed: int, with_texture: bool) -> None:
    dit = network()
    x_t, coarse, error = inputs(count, seed)
    tokens = torch.randn(count, 6, 16, generator=torch.Generator().manual_seed(seed))
    texture = dit.texture_cache(tokens) if with_texture else None
    expected = dit(x_t, torch.full((count,), step), coarse, error, texture)
    found = FoldedDiT(dit)(x_t, step, coarse, error, texture)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


@law
@given(levels=st.lists(st.sampled_from([-1.0, 0.4, 0.6]), min_size=1, max_size=5), step=st.integers(0, 999))
@torch.no_grad()
def test_patches_above_the_limit_read_no_prompt(levels: list[float], step: int) -> None:
    """To the last bit, whatever patches are beside them, and those below read theirs."""
    dit, count = network(prompt_limit=0.5), len(levels)
    x_t, coarse, error = inputs(count)
    error += torch.tensor(levels).view(-1, 1, 1, 1) - error.mean(dim=(1, 2, 3), keepdim=True)
    texture = dit.texture_cache(torch.randn(count, 6, 16, generator=torch.Generator().manual_seed(1)))
    folded, t = FoldedDiT(dit), torch.full((count,), step)
    found, plain = folded(x_t, step, coarse, error, texture), folded(x_t, step, coarse, error)
    torch.testing.assert_close(found, dit(x_t, t, coarse, error, texture), atol=2e-4, rtol=1e-4)
    full = FoldedDiT(network())(x_t, step, coarse, error, texture)
    for number, level in enumerate(levels):
        assert torch.equal(found[number], (plain if level > 0.5 else full)[number])
    assert not torch.equal(plain, full)


@pytest.mark.parametrize("prediction_type", ["sample", "epsilon", "v_prediction"])
@torch.no_grad()
def test_steps_do_not_remember_each_other(prediction_type: str) -> None:
    dit = network(prediction_type)
    folded, (x_t, coarse, error) = FoldedDiT(dit), inputs(2)
    for step in (999, 3, 3, 999):
        expected = dit(x_t, torch.full((2,), step), coarse, error)
        torch.testing.assert_close(folded(x_t, step, coarse, error), expected, atol=2e-4, rtol=1e-4)


def test_gelu_by_the_logistic_function() -> None:
    x = torch.cat([torch.linspace(-12, 12, 4001), torch.randn(999)]).reshape(1000, 5)
    expected = torch.nn.functional.gelu(x.double(), approximate="tanh").float()
    torch.testing.assert_close(_gelu_(x.clone()), expected, atol=1e-6, rtol=1e-5)
