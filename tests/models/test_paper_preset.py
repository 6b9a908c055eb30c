"""Both presets build and fit together; `paper` trains and runs at reduced size; tiles decode to the whole."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import nn

from patchscaler.errors import ConfigError
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.tiles import plan_tiles
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.models.latents import (
    KL_REACH,
    decode_latents,
    decode_reach,
    encode_pixels,
    latent_channels,
)
from patchscaler.models.restorer import restoration_loss
from patchscaler.presets import PAPER, TINY, Networks, Preset, build_networks
from patchscaler.stages.render import decode_tiled

DOC = Path(__file__).parents[2] / "docs" / "paper-preset.md"

REDUCED = PAPER.changed(
    autoencoder={"block_out_channels": (8, 8, 16, 16), "layers_per_block": 1, "norm_num_groups": 4},
    restorer={"width": 12, "groups": 2, "blocks": 2, "heads": 2},
    patch_dit={"width": 32, "depth": 2, "heads": 2, "texture_width": 16},
    texture_classifier={"width": 8, "blocks": 1},
    texture_encoder={"width": 16},
    texture_memory={"size": 10},
)


@pytest.fixture(scope="module")
def paper() -> Networks:
    torch.manual_seed(0)
    networks = build_networks(REDUCED)
    for network in networks:
        network.requires_grad_(False)
    return networks


@pytest.fixture(scope="module")
def dct() -> DctAutoencoder:
    """A small one with random weights everywhere, so that every layer's reach shows."""
    torch.manual_seed(0)
    autoencoder = DctAutoencoder(luma=6, chroma=1, width=8, blocks=2, fine_width=8, fine_blocks=2)
    for layer in autoencoder.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.2)
    return autoencoder.eval()


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def train_one_step(network: nn.Module, loss: torch.Tensor) -> bool:
    """Whether one optimiser step changed the weights."""
    before = [parameter.detach().clone() for parameter in network.parameters()]
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.0)
    loss.backward()
    optimiser.step()
    return any(not torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True))


def test_paper_restorer_trains() -> None:
    restorer: Any = REDUCED.restorer.build()
    restored = restorer(noise(2, 4, 16, 16))
    loss, _ = restoration_loss(restored, torch.zeros(2, 4, 16, 16), restorer.eta, uncertainty_weight=0.05)
    assert train_one_step(restorer, loss)


def test_paper_patch_dit_trains() -> None:
    dit: Any = REDUCED.patch_dit.build()
    target = noise(2, 4, 16, 16)
    coarse, tokens = 0.8 * target, noise(2, 64, 16)
    times = torch.tensor([999, 399])
    predicted = dit(noise(2, 4, 16, 16), times, coarse, torch.zeros(2, 1, 16, 16), dit.texture_cache(tokens))
    assert train_one_step(dit, (predicted - target).square().mean())


def test_paper_runs_from_pixels_to_pixels(paper: Networks) -> None:
    autoencoder, restorer, dit, classifier, encoder, memory = (*paper,)
    parts: Any = (dit, classifier, encoder, memory)
    pixels = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    latents = encode_pixels(autoencoder, pixels)
    assert latents.shape == (1, 4, 16, 16)
    coarse, log_error = restorer(latents)
    found = parts[3].retrieve(parts[1](coarse), top_k=4)
    tokens = parts[2](parts[3].read(found.places), found.similarities)
    assert tokens.shape == (1, 64, 16)
    x_0 = dit(noise(1, 4, 16, 16), torch.tensor([999]), coarse, log_error, parts[0].texture_cache(tokens))
    decoded = decode_latents(autoencoder, x_0)
    assert decoded.shape == pixels.shape
    assert decoded.isfinite().all()


def test_kl_latents_are_the_scaled_mode(paper: Networks) -> None:
    autoencoder: Any = paper.autoencoder
    pixels = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    mean = autoencoder.encode(pixels * 2 - 1).latent_dist.mean
    torch.testing.assert_close(encode_pixels(autoencoder, pixels), mean * 0.18215)
    torch.testing.assert_close(decode_latents(autoencoder, mean * 0.18215), autoencoder.decode(mean).sample / 2 + 0.5)
    assert latent_channels(autoencoder) == 4
    assert decode_reach(autoencoder) == KL_REACH


def test_kl_shift_is_undone() -> None:
    config = {**REDUCED.autoencoder.config, "shift_factor": 0.1}
    torch.manual_seed(0)
    autoencoder = AutoencoderKL(**config).requires_grad_(False)
    pixels = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mean = autoencoder.encode(pixels * 2 - 1).latent_dist.mean
    torch.testing.assert_close(encode_pixels(autoencoder, pixels), (mean - 0.1) * 0.18215)
    latents = (mean - 0.1) * 0.18215
    torch.testing.assert_close(decode_latents(autoencoder, latents), autoencoder.decode(mean).sample / 2 + 0.5)


def test_the_dct_autoencoder_speaks_for_itself(dct: DctAutoencoder) -> None:
    pixels = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    latents = encode_pixels(dct, pixels)
    assert torch.equal(latents, dct.encode(pixels))
    assert torch.equal(decode_latents(dct, latents), dct.decode(latents))
    assert latent_channels(dct) == 8
    assert decode_reach(dct) == dct.reach


def decoded_in_tiles(
    dct: DctAutoencoder, latents: torch.Tensor, area: int, rows: tuple[int, int] | None = None, **more: Any
) -> torch.Tensor:
    size = Size(latents.shape[2] if rows is None else rows[1] - rows[0], latents.shape[3])
    tiles = plan_tiles(size, dct.reach, area)
    pixels = decode_tiled(
        lambda part: dct.decode(torch.from_numpy(part)).detach().numpy(),
        latents.numpy(),
        dct.reach,
        tiles,
        rows,
        **more,
    )
    return torch.from_numpy(pixels)


@pytest.mark.parametrize(
    ("size", "area"), [((1, 1), 64), ((5, 7), 2000), ((8, 8), 2000), ((9, 40), 600), ((23, 17), 500), ((3, 4), 1)]
)
def test_tiled_decode_is_the_whole_decode(dct: DctAutoencoder, size: tuple[int, int], area: int) -> None:
    latents = noise(2, 8, *size)
    calls: list[None] = []
    tiled = decoded_in_tiles(dct, latents, area, on_tile=lambda: calls.append(None))
    assert len(calls) == len(plan_tiles(Size(*size), dct.reach, area))
    torch.testing.assert_close(tiled, dct.decode(latents), atol=1e-5, rtol=1e-4)


def test_rows_are_decoded_with_those_around_them(dct: DctAutoencoder) -> None:
    latents = noise(1, 8, 3 * dct.reach, 20)
    whole = dct.decode(latents)
    for rows in ((0, 5), (dct.reach, dct.reach + 2), (3 * dct.reach - 1, 3 * dct.reach)):
        found = decoded_in_tiles(dct, latents, 2**16, rows)
        torch.testing.assert_close(found, whole[:, :, 8 * rows[0] : 8 * rows[1]], atol=1e-5, rtol=1e-4)


def test_no_tile_is_larger_than_allowed(dct: DctAutoencoder, monkeypatch: pytest.MonkeyPatch) -> None:
    areas: list[int] = []
    decode = dct.decode
    monkeypatch.setattr(dct, "decode", lambda latents: areas.append(latents[0, 0].numel()) or decode(latents))
    decoded_in_tiles(dct, noise(1, 8, 70, 33), 800)
    assert len(areas) > 1
    assert max(areas) <= 800


def test_small_pictures_are_drawn_of_the_low_frequencies(dct: DctAutoencoder) -> None:
    latents = noise(1, 8, 5, 7)
    whole = dct.inverse_dct(latents)
    np.testing.assert_allclose(dct.dct.inverse(latents.numpy(), 8), whole, atol=1e-5)
    means = torch.nn.functional.avg_pool2d(whole, 8)
    np.testing.assert_allclose(dct.dct.inverse(latents.numpy(), 1), means, atol=1e-5)


def test_wrong_input_is_named(paper: Networks, dct: DctAutoencoder) -> None:
    with pytest.raises(ValueError, match="empty"):
        decode_tiled(lambda part: part, np.zeros((1, 8, 0, 4), np.float32), 1, [])
    with pytest.raises(ValueError, match="multiples of 8"):
        encode_pixels(paper.autoencoder, torch.zeros(1, 3, 8, 9))
    for function in (latent_channels, decode_reach):
        with pytest.raises(ConfigError, match="SwinRestorer is no autoencoder"):
            function(paper.restorer)
    with pytest.raises(ConfigError, match="stride 1"):
        latent_channels(AutoencoderKL(block_out_channels=(32,)))


def test_presets_whose_parts_disagree_are_refused() -> None:
    with pytest.raises(ConfigError, match="restorer has latent_channels 5, patch_dit 4"):
        PAPER.changed(restorer={"latent_channels": 5})
    with pytest.raises(ConfigError, match="autoencoder has latent_channels 30, patch_dit 32"):
        TINY.changed(autoencoder={"chroma": 3})
    with pytest.raises(ConfigError, match="texture_memory has sample_size 8, patch_dit 16"):
        PAPER.changed(texture_memory={"sample_size": 8})
    with pytest.raises(ConfigError, match="texture_width 7"):
        PAPER.changed(patch_dit={"texture_width": 7})
    with pytest.raises(ConfigError, match="features 64"):
        PAPER.changed(texture_classifier={"features": 64})
    with pytest.raises(ConfigError, match="SwinRestorer has no setting colour"):
        PAPER.changed(restorer={"colour": 1}).restorer.build()


def documented_parameters(preset: str) -> list[int]:
    """The parameter column of one preset in docs/paper-preset.md."""
    rows = re.findall(rf"^\| `{preset}` \| [^|]+ \| ([\d,]+) \|", DOC.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [int(count.replace(",", "")) for count in rows]


@pytest.mark.parametrize(("name", "preset"), [("tiny", TINY), ("paper", PAPER)])
def test_full_size_has_the_documented_parameters(name: str, preset: Preset) -> None:
    with torch.device("meta"):
        networks = build_networks(preset)
    counts = [sum(parameter.numel() for parameter in network.parameters()) for network in networks]
    # The memory, last of the networks, has buffers only.
    assert counts.pop() == 0
    assert sorted(documented_parameters(name)) == sorted(counts)
