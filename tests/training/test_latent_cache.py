"""The cache of coarse latents: what is stored is what the networks make, of just these pictures and weights."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from patchscaler.data.pairs import PairDataset, PairSettings
from patchscaler.data.pictures import PictureSet
from patchscaler.errors import ConfigError
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.models.fusion import Fusion
from patchscaler.models.grm import GlobalRestoration
from patchscaler.models.restorer import ConvRestorer
from patchscaler.models.rrdb import RrdbRestorer
from patchscaler.training.cache import CacheSettings, CropCache
from patchscaler.training.latents import PatchDataset, latent_cache

BICUBIC = PairSettings(crop=32, mixture={"bicubic": 1.0})


@pytest.fixture(scope="module")
def autoencoder() -> DctAutoencoder:
    return DctAutoencoder(luma=4, chroma=1, width=8, blocks=1, fine_width=8, fine_blocks=1).eval()


@pytest.fixture(scope="module")
def restorer() -> ConvRestorer:
    torch.manual_seed(0)
    network = ConvRestorer(latent_channels=6, width=8, blocks=1).eval()
    torch.nn.init.normal_(network.exit.weight, std=0.05)
    return network.requires_grad_(False)


def test_the_latent_cache_holds_what_the_networks_make(
    pictures: PictureSet, autoencoder: DctAutoencoder, restorer: ConvRestorer, tmp_path: Path
) -> None:
    cache = latent_cache(
        CacheSettings(str(tmp_path), 20, seed=4, workers=0), pictures, BICUBIC, GlobalRestoration(restorer, autoencoder)
    )
    dataset = PairDataset(pictures, BICUBIC, 4)
    assert {name: array.shape for name, array in cache.arrays.items()} == {
        "pixels": (20, 3, 32, 32),
        "coarse": (20, 6, 4, 4),
        "log_error": (20, 1, 4, 4),
    }
    for index in (0, 7, 19):  # the last is in a smaller batch
        pair = dataset[index]
        restored = restorer(pair["lr"][None])
        assert np.array_equal(cache.arrays["pixels"][index], (pair["hr"] * 255).round().byte().numpy())
        for name, value, tolerance in (
            ("coarse", restored.latents, 0.03),
            ("log_error", restored.log_error, 0.03),
        ):
            stored = torch.from_numpy(np.array(cache.arrays[name][index], dtype=np.float32))
            torch.testing.assert_close(stored, value[0], atol=tolerance, rtol=tolerance)  # half; restored in bfloat16
    patch = cache.square(5, 1, 0, 3)
    assert all(value.dtype == torch.float32 for value in patch.values())
    assert np.array_equal(patch["pixels"].numpy() * 255, cache.arrays["pixels"][5, :, 8:32, 0:24].astype(np.float32))
    for name in ("coarse", "log_error"):
        assert np.array_equal(patch[name].numpy(), cache.arrays[name][5, :, 1:4, 0:3].astype(np.float32))


def test_an_interrupted_cache_goes_on(
    pictures: PictureSet, autoencoder: DctAutoencoder, restorer: ConvRestorer, tmp_path: Path
) -> None:
    count, pairs = 830, PairSettings(crop=16, draws=1, mixture={"bicubic": 1.0})  # it notes its place at 640

    def build(folder: str) -> CropCache:
        place = CacheSettings(str(tmp_path / folder), count, workers=0)
        return latent_cache(place, pictures, pairs, GlobalRestoration(restorer, autoencoder))

    whole = build("whole")
    batches = []

    def interrupt(*_: Any) -> None:
        batches.append(1)
        if len(batches) == 52:
            raise KeyboardInterrupt

    hook = restorer.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        build("stopped")
    resumed = build("stopped")
    hook.remove()
    assert len(batches) == 52 + 12
    for name, array in whole.arrays.items():
        assert np.array_equal(array, resumed.arrays[name])
        assert np.abs(array[-1].astype(np.float32)).max() > 0
    before = [path.stat().st_mtime_ns for path in sorted(whole.folder.iterdir())]
    build("whole")
    assert [path.stat().st_mtime_ns for path in sorted(whole.folder.iterdir())] == before


def test_a_cache_belongs_to_what_it_was_made_of(
    pictures: PictureSet, autoencoder: DctAutoencoder, restorer: ConvRestorer, tmp_path: Path
) -> None:
    other_parts = (
        DctAutoencoder(luma=2, chroma=2, width=8, blocks=1, fine_width=8, fine_blocks=1),
        DctAutoencoder(luma=4, chroma=1, width=8, blocks=1, fine_width=8, fine_blocks=1, latents_mean=[0.5] * 6),
    )
    other_restorer = ConvRestorer(latent_channels=6, width=8, blocks=1).requires_grad_(False)
    torch.manual_seed(0)
    second = RrdbRestorer(latent_channels=6, width=8, growth=4, blocks=1)
    fusions = [Fusion(6, 8, 8, width=8, blocks=1) for _ in range(2)]

    def folder(
        seed: int = 1,
        pictures: PictureSet = pictures,
        pairs: PairSettings = BICUBIC,
        parts: GlobalRestoration | None = None,
    ) -> Path:
        place = CacheSettings(str(tmp_path), 2, seed, workers=0)
        grm = parts or GlobalRestoration(restorer, autoencoder)
        return latent_cache(place, pictures, pairs, grm).folder

    moved = dataclasses.replace(pictures, cache=str(tmp_path / "elsewhere"))
    assert folder() == folder() == folder(pictures=moved)
    (tmp_path / "in").mkdir()
    Image.new("RGB", (64, 64), (90, 120, 30)).save(tmp_path / "in" / "0.png")
    own = PictureSet(str(tmp_path / "in"), str(tmp_path / "cache"), 32)
    first = folder(pictures=own)
    Image.new("RGB", (64, 64), (30, 120, 90)).save(tmp_path / "in" / "1.png")
    folders = [
        folder(),
        folder(seed=2),
        folder(pairs=PairSettings(crop=32, mixture={"mild": 1.0})),
        *(folder(parts=GlobalRestoration(restorer, other)) for other in other_parts),
        folder(parts=GlobalRestoration(other_restorer, autoencoder)),
        *(folder(parts=GlobalRestoration(restorer, autoencoder, second, fusion)) for fusion in fusions),
        first,
        folder(pictures=own),  # with one more file
    ]
    assert len(set(folders)) == len(folders)


def test_patches_are_a_function_of_seed_and_index(
    pictures: PictureSet, autoencoder: DctAutoencoder, restorer: ConvRestorer, tmp_path: Path
) -> None:
    cache = latent_cache(
        CacheSettings(str(tmp_path), 8, workers=0), pictures, BICUBIC, GlobalRestoration(restorer, autoencoder)
    )
    one, two = PatchDataset(cache, 2, seed=3), PatchDataset(cache, 2, seed=3)
    two[4]
    for index in (0, 9, 2**39):
        for name, value in one[index].items():
            assert value.shape == {"pixels": (3, 16, 16), "coarse": (6, 2, 2), "log_error": (1, 2, 2)}[name]
            assert torch.equal(value, two[index][name])
    easy, hard = (
        torch.stack([PatchDataset(cache, 2, 0, share)[index]["log_error"].mean() for index in range(200)])
        for share in (0.0, 1.0)
    )
    assert (hard >= easy).all()
    assert hard.mean() > easy.mean()
    with pytest.raises(ConfigError, match=r"crops of 4 latents hold no patch of 5: set pairs\.crop to 40"):
        PatchDataset(cache, 5, seed=0)
