"""The texture prompt: memory, retrieval, classifier, encoder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from patchscaler.errors import ConfigError
from patchscaler.models.loading import check_part
from patchscaler.models.texture import ReferenceTextureMemory, TextureClassifier, TextureEncoder, farthest_points
from random_networks import patch_dit, randn, shaken

law = settings(deadline=None, max_examples=25)
seeds = st.integers(0, 2**31)


def filled(seed: int = 0, size: int = 30, features: int = 5) -> tuple[ReferenceTextureMemory, Tensor, Tensor]:
    values = randn(seed, size, 3, 4, 4) * torch.tensor([0.1, 1.0, 20.0])[:, None, None]
    keys = randn(seed + 1, size, features)
    memory = ReferenceTextureMemory(latent_channels=3, sample_size=4, features=features, size=size)
    memory.fill(values, keys)
    return memory, values, keys


# Memory


@law
@given(seeds)
def test_values_come_back_within_half_of_an_eight_bit_step(seed: int) -> None:
    memory, values, _ = filled(seed)
    read = memory.read(torch.arange(30)[:, None])[:, 0]
    step = memory.value_scale[:, None, None]
    limit = 127 * step
    assert ((read - values.clamp(-limit, limit)).abs() <= step * (0.5 + 1e-4)).all()
    clipped = (values.abs() > limit * (1 + 1e-5)).float().mean(dim=(0, 2, 3))
    assert (clipped <= 0.001 + 1 / (30 * 16)).all()
    largest = values.abs().amax(dim=(0, 2, 3))
    assert (limit.flatten() <= largest * (1 + 1e-6)).all()


def test_values_are_read_in_the_order_of_the_places() -> None:
    memory, _, _ = filled()
    places = torch.tensor([[3, 0], [29, 29]])
    read = memory.read(places)
    assert read.shape == (2, 2, 3, 4, 4)
    assert torch.equal(read[0, 1], memory.read(torch.tensor([[0]]))[0, 0])
    assert torch.equal(read[1, 0], read[1, 1])


def test_a_memory_refuses_what_does_not_fit() -> None:
    memory = ReferenceTextureMemory(latent_channels=3, sample_size=4, features=5, size=30)
    with pytest.raises(ConfigError, match=r"\(30, 3, 4, 4\) and keys \(30, 5\), not \(29, 3, 4, 4\) and \(29, 5\)"):
        memory.fill(torch.zeros(29, 3, 4, 4), torch.zeros(29, 5))
    with pytest.raises(ConfigError, match=r"not \(30, 3, 4, 4\) and \(30, 6\)"):
        memory.fill(torch.zeros(30, 3, 4, 4), torch.zeros(30, 6))


@law
@given(seeds, st.integers(1, 30), st.integers(1, 4))
def test_retrieval_is_the_best_by_cosine(seed: int, top_k: int, count: int) -> None:
    memory, _, keys = filled(seed)
    queries = randn(seed + 2, count, 5)
    found = memory.retrieve(queries, top_k)
    q, k = queries.double().numpy(), keys.double().numpy()
    cosine = (q @ k.T) / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(k, axis=1)[None]
    order = np.argsort(-cosine, axis=1)[:, :top_k]
    assert np.array_equal(found.places.numpy(), order)
    np.testing.assert_allclose(found.similarities.numpy(), np.take_along_axis(cosine, order, axis=1), atol=1e-5)


def test_a_key_finds_itself_first() -> None:
    memory, _, keys = filled()
    found = memory.retrieve(3 * keys, 1)
    assert found.places.flatten().tolist() == list(range(30))
    torch.testing.assert_close(found.similarities, torch.ones(30, 1))


@law
@given(seeds, st.integers(1, 25), st.integers(0, 24))
def test_farthest_points_are_the_naive_ones(seed: int, count: int, first: int) -> None:
    points = randn(seed, 25, 3)
    chosen = farthest_points(points, count, first).tolist()
    x = points.double().numpy()
    distances = np.linalg.norm(x[:, None] - x[None], axis=2)
    naive = [first]
    while len(naive) < count:
        naive.append(max(set(range(25)) - set(naive), key=lambda i: distances[i, naive].min()))
    assert chosen == naive


@law
@given(seeds)
def test_farthest_points_spread(seed: int) -> None:
    """Gonzalez: the points left out are no farther from the chosen than the chosen are from one another."""
    points = randn(seed, 40, 2)
    chosen = farthest_points(points, 8)
    distances = torch.cdist(points[chosen], points[chosen]) + torch.eye(8) * 1e9
    assert torch.cdist(points, points[chosen]).amin(dim=1).max() <= distances.min() + 1e-4


def test_farthest_points_never_choose_twice() -> None:
    assert sorted(farthest_points(torch.zeros(6, 2), 6).tolist()) == list(range(6))
    for count in (0, 7):
        with pytest.raises(ConfigError, match=f"can't choose {count} of 6 points"):
            farthest_points(torch.zeros(6, 2), count)


# Classifier and encoder


def test_a_classifier_gives_unit_vectors_of_any_patch() -> None:
    classifier = shaken(TextureClassifier(latent_channels=3, width=8, blocks=1, features=5, targets=7))
    for side in (4, 9):
        vectors = classifier(randn(0, 2, 3, side, side))
        assert vectors.shape == (2, 5)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    assert classifier.predict(vectors).shape == (2, 7)


def encoder(**changes: Any) -> TextureEncoder:
    settings = {"latent_channels": 3, "sample_size": 4, "patch_size": 2, "width": 16, "top_k": 2} | changes
    torch.manual_seed(0)
    return shaken(TextureEncoder(**settings), 1)


def test_an_encoder_gives_tokens_texture_by_texture() -> None:
    values, similarities = randn(0, 5, 2, 3, 4, 4), torch.rand(5, 2)
    tokens = encoder()(values, similarities)
    assert tokens.shape == (5, 2 * 4, 16)
    changed = values.clone()
    changed[:, 1] += 1
    other = encoder()(changed, similarities)
    assert torch.equal(tokens[:, :4], other[:, :4])
    assert not torch.isclose(tokens[:, 4:], other[:, 4:]).all()


def test_similarity_turns_tokens() -> None:
    values = randn(0, 1, 2, 3, 4, 4)
    good, poor = torch.tensor([[0.9, 0.5]]), torch.tensor([[0.1, 0.5]])
    one, two = encoder()(values, good), encoder()(values, poor)
    assert not torch.isclose(one[:, :4], two[:, :4]).all()
    assert torch.equal(one[:, 4:], two[:, 4:])
    fresh = TextureEncoder(latent_channels=3, sample_size=4, patch_size=2, width=16)
    assert torch.equal(fresh(values, good), fresh(values, poor))  # learned, not built in


def test_an_encoder_refuses_sides_that_do_not_divide() -> None:
    with pytest.raises(ConfigError, match="sample_size 5 must be a multiple of patch_size 2"):
        encoder(sample_size=5)


@pytest.mark.parametrize("kind", ["memory", "classifier", "encoder", "patch_dit"])
def test_save_and_load_are_exact(kind: str, tmp_path: Path) -> None:
    network: Any = {
        "memory": lambda: filled()[0],
        "classifier": lambda: shaken(TextureClassifier(latent_channels=3, width=8, blocks=1, features=5)),
        "encoder": encoder,
        "patch_dit": patch_dit,
    }[kind]()
    network.save_pretrained(tmp_path)
    check_part(type(network), tmp_path)
    loaded = type(network).from_pretrained(tmp_path)
    assert {k: v for k, v in loaded.config.items() if k[0] != "_"} == {
        k: v for k, v in network.config.items() if k[0] != "_"
    }
    for key, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
        assert loaded.state_dict()[key].dtype == value.dtype
