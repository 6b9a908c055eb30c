"""Patch-DiT: every input matters, and patches do not influence each other."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from patchscaler.errors import ConfigError
from patchscaler.models.patch_dit import TextureCache
from random_networks import fresh_patch_dit, patch_dit, randn

law = settings(deadline=None, max_examples=25)
seeds = st.integers(0, 2**31)


def inputs(count: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    t = torch.tensor([0, 999, 500, 1, 998, 250])[:count]
    return randn(0, count, 3, 4, 4), t, randn(1, count, 3, 4, 4), randn(2, count, 1, 4, 4)


def test_cached_texture_is_computed_texture() -> None:
    """The cache against keys and values computed on the spot, and against each patch's cache on its own."""
    network, (x, t, coarse, log_error), tokens = patch_dit(), inputs(), randn(3, 6, 8, 16)
    cache = network.texture_cache(tokens)
    whole = network(x, t, coarse, log_error, cache)
    for number, layer in enumerate(network.layers):
        key, value = layer.key_value(tokens)
        assert torch.equal(cache.keys[:, number], key)
        assert torch.equal(cache.values[:, number], value)
        single = (layer.texture_key_value(tokens)[..., :16], layer.texture_key_value(tokens)[..., 16:])
        for heads, flat in zip((key, value), single, strict=True):
            assert torch.equal(heads, flat.reshape(6, 8, 2, 8).transpose(1, 2))
    for number in range(6):
        alone = network.texture_cache(tokens[number : number + 1])
        result = network(*(x[number : number + 1] for x in (x, t, coarse, log_error)), alone)
        torch.testing.assert_close(result, whole[number : number + 1], atol=1e-5, rtol=1e-5)


@law
@given(st.permutations(range(6)), st.integers(1, 6))
def test_patches_do_not_influence_each_other(order: list[int], size: int) -> None:
    network, arguments, tokens = patch_dit(), inputs(), randn(3, 6, 8, 16)
    cache = network.texture_cache(tokens)
    whole = network(*arguments, cache)
    for start in range(0, 6, size):
        index = torch.tensor(order[start : start + size])
        chosen = TextureCache(cache.keys[index], cache.values[index])
        part = network(*(argument[index] for argument in arguments), chosen)
        torch.testing.assert_close(part, whole[index], atol=1e-5, rtol=1e-5)


def test_every_input_matters() -> None:
    network, arguments, tokens = patch_dit(), inputs(), randn(3, 6, 8, 16)
    whole = network(*arguments, network.texture_cache(tokens))
    assert whole.shape == (6, 3, 4, 4)
    assert not torch.isclose(network(*arguments), whole).all()
    assert not torch.isclose(network(*arguments, network.texture_cache(tokens + randn(4, 6, 8, 16))), whole).all()
    for number in range(4):
        changed = list(arguments)
        changed[number] = (changed[number] + 1) % 1000 if number == 1 else changed[number] + 0.5
        assert not torch.isclose(network(*changed, network.texture_cache(tokens)), whole).all()


def test_a_fresh_network_returns_the_coarse_patch() -> None:
    network, arguments = fresh_patch_dit(), inputs()
    for texture in (None, network.texture_cache(randn(3, 6, 8, 16))):
        assert torch.equal(network(*arguments, texture), arguments[2])
    for kind in ("epsilon", "v_prediction"):
        assert not fresh_patch_dit(prediction_type=kind)(*arguments).any()


def test_gradient_checkpointing_changes_nothing() -> None:
    arguments, tokens = inputs(), randn(3, 6, 8, 16)
    gradients = []
    for saving in (False, True):
        network: nn.Module = patch_dit().train().requires_grad_(True)
        network.gradient_checkpointing = saving
        network(*arguments, network.texture_cache(tokens)).square().mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    for one, two in zip(*gradients, strict=True):
        assert one is not None
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"width": 18}, "width 18 must be a multiple of 4 and of heads 2"),
        ({"heads": 3}, "width 16 must be a multiple of 4 and of heads 3"),
        ({"sample_size": 5}, "sample_size 5 must be a multiple of patch_size 2"),
        ({"prediction_type": "x0"}, 'prediction_type "x0": choose sample, epsilon or v_prediction'),
    ],
)
def test_impossible_configs_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        fresh_patch_dit(**change)
