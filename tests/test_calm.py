"""The restorer's calmer weights: where they take over, and that tiles and export don't change it."""

import pytest
import torch
from add_calm import with_calm
from torch import Tensor

from patchscaler.models.restorer import ConvRestorer


def networks(limit: float | None) -> tuple[ConvRestorer, ConvRestorer, ConvRestorer]:
    """A restorer, another one, and the first with half of the other as its calm weights."""
    torch.manual_seed(0)
    own, other = (ConvRestorer(latent_channels=6, width=8, blocks=2, block="plain") for _ in range(2))
    for network in (own, other):
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return own.eval(), other.eval(), with_calm(own, other, 0.5, limit).eval()


def pixels(height: int = 40, width: int = 48) -> Tensor:
    """Flat on the left, noise on the right."""
    made = torch.full((1, 3, height, width), 0.5)
    made[..., width // 2 :] += 3 * torch.randn(1, 3, height, width // 2, generator=torch.Generator().manual_seed(0))
    return made


@torch.no_grad()
def test_where_the_error_is_small_nothing_changes_and_where_it_is_large_the_mix_takes_over() -> None:
    own, other, _ = networks(0.0)
    plain = own(pixels())
    for limit, share in ((10.0, 0.0), (-10.0, 1.0)):
        made = with_calm(own, other, 0.5, limit)
        assert torch.equal(made.calm_share(plain.log_error), torch.full_like(plain.log_error, share))
        found = made(pixels())
        assert torch.equal(found.log_error, plain.log_error)
        assert made.calm is not None
        torch.testing.assert_close(found.latents, made.calm(pixels()).latents if share else plain.latents)
    middle = torch.lerp(own.entry.weight, other.entry.weight, 0.5)
    assert torch.equal(made.calm.entry.weight, middle)


@torch.no_grad()
def test_a_tile_with_its_reach_is_the_whole_picture() -> None:
    own, other, _ = networks(0.0)
    limit = float(own(pixels()).log_error.mean())
    made = with_calm(own, other, 0.5, limit)
    assert made.reach == own.reach + 4
    whole = made(pixels())
    share = made.calm_share(whole.log_error)
    assert 0 < share.mean() < 1
    left, right = 2 * (12 - made.reach), 2 * (14 + made.reach)
    tile = made(pixels()[..., max(left, 0) : right])
    start = 12 - max(left, 0) // 2
    torch.testing.assert_close(tile.latents[..., start : start + 2], whole.latents[..., 12:14], atol=1e-5, rtol=1e-5)


def test_save_and_load(tmp_path) -> None:
    *_, made = networks(-0.25)
    made.save_pretrained(tmp_path)
    again = ConvRestorer.from_pretrained(tmp_path)
    assert again.config["calm_limit"] == pytest.approx(-0.25)
    assert all(torch.equal(value, made.state_dict()[name]) for name, value in again.state_dict().items())
