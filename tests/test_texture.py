"""The texture prompt and its reader: memory, retrieval, encoder, Patch-DiT; and eta, which says who needs it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from patchscaler.data.pictures import PictureSet
from patchscaler.errors import ConfigError, WeightsError
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.models.patch_dit import PatchDiT, TextureCache
from patchscaler.models.restorer import ConvRestorer
from patchscaler.models.texture import ReferenceTextureMemory, TextureClassifier, TextureEncoder, farthest_points
from patchscaler.storage import check_part
from patchscaler.training.autoencoder import CropDataset, PicturePool
from patchscaler.training.calibrate import calibrate, calibrate_eta, group_shares, patch_log_errors
from patchscaler.training.texture import build_memory

law = settings(deadline=None, max_examples=25)
seeds = st.integers(0, 2**31)


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shaken(network: Any, seed: int = 0) -> Any:
    """Every parameter random: zero-initialised layers would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return network.eval().requires_grad_(False)


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


# Patch-DiT


def fresh_patch_dit(**changes: Any) -> PatchDiT:
    torch.manual_seed(0)
    settings = {"latent_channels": 3, "sample_size": 4, "width": 16, "depth": 2, "heads": 2, "texture_width": 16}
    return PatchDiT(**settings | changes)


def patch_dit(**changes: Any) -> PatchDiT:
    return shaken(fresh_patch_dit(**changes), 2)


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


# Building a memory


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    autoencoder = DctAutoencoder(luma=4, chroma=1, width=8, blocks=1, fine_width=8, fine_blocks=1)
    autoencoder.save_pretrained(folder / "autoencoder")
    shaken(TextureClassifier(latent_channels=6, width=8, blocks=1, features=5)).save_pretrained(folder / "classifier")
    shaken(ConvRestorer(latent_channels=6, width=8, blocks=1)).save_pretrained(folder / "restorer")
    return folder


def test_a_memory_is_built_from_pictures(parts: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(2):
        pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    pictures = PictureSet(str(tmp_path), cache=str(tmp_path / "cache"), min_side=128)
    seen: list[int] = []
    for name in ("one", "two"):
        build_memory(
            pictures,
            str(parts / "autoencoder"),
            str(parts / "classifier"),
            str(tmp_path / name),
            size=7,
            candidates=60,
            seed=3,
            on_candidate=seen.append,
        )
    assert seen == [50, 60] * 2
    check_part(ReferenceTextureMemory, tmp_path / "one")
    memory, again = (ReferenceTextureMemory.from_pretrained(tmp_path / name) for name in ("one", "two"))
    for key, value in memory.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)

    autoencoder = DctAutoencoder.from_pretrained(parts / "autoencoder")
    classifier = TextureClassifier.from_pretrained(parts / "classifier")
    crops = CropDataset(PicturePool(pictures), 3, 128)
    latents = autoencoder.encode(torch.stack([crops[index] for index in range(60)]).float() / 255)
    with torch.no_grad():
        found = memory.retrieve(classifier(latents), 1)
    kept = found.similarities.flatten() > 1 - 1e-5
    assert kept[0]  # the first candidate starts the sampling
    assert len(found.places[kept].unique()) == 7
    difference = memory.read(found.places)[:, 0] - latents
    assert difference[0].abs().max() < 0.02 * latents.abs().max()
    with pytest.raises(ConfigError, match="can't choose 5 of 4 points"):
        build_memory(
            pictures, str(parts / "autoencoder"), str(parts / "classifier"), str(tmp_path / "x"), size=5, candidates=4
        )
    with pytest.raises(WeightsError, match="nowhere: no TextureClassifier here"):
        build_memory(pictures, str(parts / "autoencoder"), "nowhere", str(tmp_path / "x"), size=5, candidates=4)


# Calibration of eta


@law
@given(seeds, st.floats(0.05, 0.95), st.floats(-5, 3))
def test_the_calibrated_eta_reaches_the_share(seed: int, share: float, level: float) -> None:
    log_errors = level + randn(seed, 200, 1, 1, 1) + 0.3 * randn(seed + 1, 200, 1, 4, 4)
    eta = calibrate_eta(log_errors, share)
    assert eta > 0
    assert abs(group_shares(log_errors, eta)[2] - share) <= 2 / 200
    assert sum(group_shares(log_errors, eta)) == pytest.approx(1)


@law
@given(seeds, st.floats(0.05, 0.9), st.floats(0.01, 0.05))
def test_more_hard_patches_need_a_smaller_eta(seed: int, share: float, more: float) -> None:
    log_errors = randn(seed, 100, 1, 4, 4) + randn(seed + 1, 100, 1, 1, 1)
    assert calibrate_eta(log_errors, share + more) <= calibrate_eta(log_errors, share)
    etas = sorted(10.0**power for power in randn(seed + 2, 6).tolist())
    hard = [group_shares(log_errors, eta)[2] for eta in etas]
    simple = [group_shares(log_errors, eta)[0] for eta in etas]
    assert hard == sorted(hard, reverse=True)
    assert simple == sorted(simple)


def test_calibration_changes_eta_and_nothing_else(
    parts: Path, training_pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ConvRestorer.from_pretrained(parts / "restorer").save_pretrained(tmp_path / "restorer")
    before = {path.name: path.read_bytes() for path in (tmp_path / "restorer").iterdir()}
    eta, shares = calibrate(tmp_path / "restorer", str(training_pictures), ["bicubic", "mild"], hard_share=0.5)
    after = {path.name: path.read_bytes() for path in (tmp_path / "restorer").iterdir()}
    config = json.loads(after.pop("config.json"))
    assert config == json.loads(before.pop("config.json")) | {"eta": eta}
    assert after == before
    assert ConvRestorer.from_pretrained(tmp_path / "restorer").eta == eta
    errors = patch_log_errors(ConvRestorer.from_pretrained(parts / "restorer"), str(training_pictures), ["bicubic"])
    assert errors.shape[1:] == (1, 16, 16)
    assert sum(shares) == pytest.approx(1)
    assert [path.name for path in tmp_path.iterdir()] == ["restorer"]
    with pytest.raises(ConfigError, match='condition "wild": choose from bicubic, mild, real_esrgan'):
        calibrate(tmp_path / "restorer", str(training_pictures), ["wild"])
