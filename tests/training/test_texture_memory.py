"""A memory built from pictures, and eta calibrated on them."""

import json
import tarfile
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
from patchscaler.training.memory import GridPatches, build_memory
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


def test_a_grid_holds_every_patch_of_every_picture_once(tmp_path: Path) -> None:
    """Pictures whose red is the column and green the row, blue the picture."""
    (tmp_path / "in").mkdir()
    for number, (height, width) in enumerate([(40, 56), (33, 70)]):
        y, x = np.mgrid[0:height, 0:width]
        pixels = np.stack([x, y, np.full_like(x, number)], axis=2).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{number}.png")
    pool = PicturePool(PictureSet(str(tmp_path / "in"), cache=str(tmp_path / "cache"), min_side=32, decode=False))
    grid = GridPatches(pool, 32, 8)
    corners = [tuple(patch[:, 0, 0].tolist()) for patch in grid]
    assert corners == [(x, y, 0) for y in (0, 8) for x in (0, 8, 16, 24)] + [(x, 0, 1) for x in (0, 8, 16, 24, 32)]
    assert all(torch.equal(patch[0, 0] - patch[0, 0, 0], torch.arange(32)) for patch in grid)
    some = [tuple(patch[:, 0, 0].tolist()) for patch in GridPatches(pool, 32, 8, 4)]
    assert some == [corners[number] for number in (0, 4, 8, 12)]


def test_a_memory_of_a_grid_over_tar_files_is_that_of_the_folder(
    parts: Path, training_pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "a.tar", "w") as tar:
        for path in sorted(training_pictures.iterdir()):
            tar.add(path, path.name)
    networks, made = (str(parts / "autoencoder"), str(parts / "classifier")), []
    for number, folder in enumerate((training_pictures, tmp_path / "tars")):
        pictures = PictureSet(str(folder), cache=str(tmp_path / "cache"), min_side=96, decode=False)
        build_memory(pictures, *networks, str(tmp_path / str(number)), 6, 0, patch=12, stride=2)
        made.append(ReferenceTextureMemory.from_pretrained(tmp_path / str(number)))
    assert made[0].texture_values.shape == (6, 6, 12, 12)
    for key, value in made[0].state_dict().items():
        assert torch.equal(made[1].state_dict()[key], value)
    patches = GridPatches(PicturePool(pictures), 96, 16)
    autoencoder = DctAutoencoder.from_pretrained(parts / "autoencoder")
    latents = autoencoder.encode(torch.stack([patches[number] for number in range(len(patches))]).float() / 255)
    kept = made[0].read(torch.arange(6)[:, None])[:, 0]
    gaps = [(latents - texture).abs().amax(dim=(1, 2, 3)).min() for texture in kept]
    assert max(gaps) < 0.02 * latents.abs().max()  # each is one of the patches, in 8 bits


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
