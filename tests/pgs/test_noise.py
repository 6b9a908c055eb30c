"""Laws of the noise field: it belongs to the place, and it is standard normal and white."""

import numpy as np
import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor
from hypothesis import given, settings
from hypothesis import strategies as st

from patchscaler.errors import ConfigError
from patchscaler.integrations.noise import NoiseSource
from patchscaler.pgs.noise import BLOCK, place_noise

law = settings(deadline=None, max_examples=25)

# Every picture made with a seed depends on these. Renewed (only together with a new major version) by
# python -c "from patchscaler.pgs.noise import place_noise as p; print(p(2024, 2, 15, 31, 2, 2).tolist())"
PORTRAIT = [
    [
        [[1.6146732568740845, -0.6841505169868469], [-0.24123579263687134, 0.2978525161743164]],
        [[-0.9736946225166321, -0.8603865504264832], [0.5826332569122314, 0.36197614669799805]],
    ]
]

places, sides, seeds = st.integers(0, 70), st.integers(1, 40), st.integers(0, 2**63 - 1)


@law
@given(seeds, places, places, sides, sides, st.data())
def test_a_crop_of_the_field_is_the_field_of_the_crop(
    seed: int, top: int, left: int, height: int, width: int, data: st.DataObject
) -> None:
    field = place_noise(seed, 3, top, left, height, width)
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    h, w = data.draw(st.integers(1, height - y)), data.draw(st.integers(1, width - x))
    channels = data.draw(st.integers(1, 3))
    crop = place_noise(seed, channels, top + y, left + x, h, w)
    assert crop.dtype == np.float32
    assert np.array_equal(crop, field[:, :channels, y : y + h, x : x + w])


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_the_field_is_standard_normal(seed: int) -> None:
    field = place_noise(seed, 4, 0, 0, 256, 256).astype(np.float64)
    assert abs(field.mean()) < 0.01
    assert abs(field.var() - 1) < 0.02
    assert abs((field**3).mean()) < 0.03
    assert abs((field**4).mean() - 3) < 0.08
    assert np.abs(field).max() < 7


def test_neighbours_channels_blocks_and_seeds_are_uncorrelated() -> None:
    field = place_noise(7, 4, 0, 0, 256, 256)
    other = place_noise(8, 4, 0, 0, 256, 256)
    pairs = {
        "next row": (field[:, :, 1:], field[:, :, :-1]),
        "next column": (field[..., 1:], field[..., :-1]),
        "next block down": (field[:, :, BLOCK:], field[:, :, :-BLOCK]),
        "next block right": (field[..., BLOCK:], field[..., :-BLOCK]),
        "mirrored block": (field[:, :, :128, 128:], field[:, :, 128:, :128].transpose(0, 1, 3, 2)),
        "next channel": (field[:, 1:], field[:, :-1]),
        "next seed": (field, other),
    }
    for name, (one, two) in pairs.items():
        correlation = np.corrcoef(one.flatten(), two.flatten())[0, 1]
        assert abs(correlation) < 0.02, name


def test_the_field_never_changes() -> None:
    np.testing.assert_allclose(place_noise(2024, 2, 15, 31, 2, 2), PORTRAIT, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_out_of_range_are_named(seed: int) -> None:
    with pytest.raises(ConfigError, match=f"seed {seed}"):
        place_noise(seed, 1, 0, 0, 1, 1)


@pytest.mark.parametrize("crop", [(1, -1, 0, 4, 4), (1, 0, -1, 4, 4), (0, 0, 0, 4, 4), (1, 0, 0, 0, 4)])
def test_impossible_crops_are_named(crop: tuple[int, int, int, int, int]) -> None:
    with pytest.raises(ConfigError, match="cannot crop"):
        place_noise(0, *crop)


def test_the_draws_of_one_call() -> None:
    cpu = torch.device("cpu")
    source = NoiseSource(seed=5)
    first, second = source.draw(4, 9, 7, cpu, torch.float32), source.draw(3, 9, 7, cpu, torch.float32)
    assert np.array_equal(torch.cat([first, second], dim=1), place_noise(5, 7, 0, 0, 9, 7))
    # A smaller picture's noise is a part of a larger one's.
    assert torch.equal(NoiseSource(seed=5).draw(4, 5, 6, cpu, torch.float32), first[..., :5, :6])
    generator = torch.Generator().manual_seed(2)
    drawn = [NoiseSource(0, generator).draw(4, 3, 2, cpu, torch.float32) for _ in range(2)]
    generator.manual_seed(2)
    assert all(torch.equal(own, randn_tensor((1, 4, 3, 2), generator=generator)) for own in drawn)
