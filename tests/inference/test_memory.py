"""A memory built from pictures, and eta calibrated on them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from patchscaler.data.pictures import PictureSet
from patchscaler.errors import ConfigError, WeightsError
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.models.grm import GlobalRestoration
from patchscaler.models.loading import check_part
from patchscaler.models.restorer import ConvRestorer
from patchscaler.models.texture import ReferenceTextureMemory, TextureClassifier
from patchscaler.training.autoencoder import CropDataset, PicturePool
from patchscaler.training.calibrate import calibrate, calibrate_eta, group_shares, patch_log_errors
from patchscaler.training.texture import build_memory
from random_networks import randn, shaken

law = settings(deadline=None, max_examples=25)
seeds = st.integers(0, 2**31)


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
    errors = patch_log_errors(
        GlobalRestoration(ConvRestorer.from_pretrained(parts / "restorer"), None), str(training_pictures), ["bicubic"]
    )
    assert errors.shape[1:] == (1, 16, 16)
    assert sum(shares) == pytest.approx(1)
    assert [path.name for path in tmp_path.iterdir()] == ["restorer"]
    with pytest.raises(ConfigError, match='condition "wild": choose from bicubic, camera, mild, real_esrgan'):
        calibrate(tmp_path / "restorer", str(training_pictures), ["wild"])
