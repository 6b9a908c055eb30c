"""SwinRestorer: sizes, windows against attention computed without any rolling, and that Eq. 1 trains it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from patchscaler.errors import ConfigError
from patchscaler.models.restorer import LOG_ERROR_RANGE, Restoration, confidence_from, restoration_loss
from patchscaler.models.swin_restorer import SwinBlock, SwinRestorer, Windows, relative_places, shifted_windows


def restorer(seed: int = 0, **changes: object) -> SwinRestorer:
    """A tiny one whose output layer isn't zero."""
    torch.manual_seed(seed)
    settings = {"latent_channels": 3, "width": 12, "groups": 2, "blocks": 2, "heads": 2, "window": 4, **changes}
    network = SwinRestorer(**settings)  # type: ignore[arg-type]
    torch.nn.init.normal_(network.exit.weight, std=0.1)
    return network


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 4), (4, 4), (8, 12), (13, 7)])
def test_any_size_goes_in_and_comes_out(size: tuple[int, int]) -> None:
    latents = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    restored = restorer()(latents)
    assert restored.latents.shape == latents.shape
    assert restored.log_error.shape == (2, 1, *size)
    assert restored.latents.dtype == restored.log_error.dtype == torch.float32
    assert all(value.isfinite().all() for value in restored)


@pytest.mark.parametrize("size", [(0, 4), (4, 0)])
def test_empty_latents_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="empty"):
        restorer()(torch.zeros(1, 3, *size))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"heads": 5}, "heads 5"), ({"window": 3}, "window 3"), ({"window": 0}, "window 0"), ({"eta": 0.0}, "eta")],
)
def test_contradictions_are_named(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        restorer(**changes)


def test_untrained_it_returns_its_input() -> None:
    latents = torch.randn(1, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    network = SwinRestorer(width=12, groups=1, blocks=2, heads=2, window=4).requires_grad_(False)
    restored = network(latents)
    torch.testing.assert_close(restored.latents, latents)
    assert network.input_kind == "latents"
    assert float(confidence_from(restored.log_error, network.eta).mean()) == pytest.approx(network.eta, rel=0.01)


def test_log_error_stays_in_its_range() -> None:
    network = restorer().requires_grad_(False)
    network.exit.weight.mul_(1e4)
    log_error = network(torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))).log_error
    assert log_error.min() == pytest.approx(LOG_ERROR_RANGE[0])
    assert log_error.max() == pytest.approx(LOG_ERROR_RANGE[1])


def attention_by_geometry(block: SwinBlock, x: Tensor, shift: tuple[int, int]) -> Tensor:
    """All tokens against all, (h,w,width): two see each other if no border, at shift + k window, lies between them."""
    height, width, channels = x.shape
    places = [(row, col) for row in range(height) for col in range(width)]
    bias = torch.full((block.heads, len(places), len(places)), -torch.inf)
    for i, (row_i, col_i) in enumerate(places):
        for j, (row_j, col_j) in enumerate(places):
            same_row = (row_i - shift[0]) // block.window == (row_j - shift[0]) // block.window
            same_col = (col_i - shift[1]) // block.window == (col_j - shift[1]) // block.window
            if same_row and same_col:
                down, right = row_j - row_i + block.window - 1, col_j - col_i + block.window - 1
                bias[:, i, j] = block.place_bias[:, down * (2 * block.window - 1) + right]
    q, k, v = block.qkv(x.reshape(-1, channels)).chunk(3, dim=1)
    heads = []
    for head, part in enumerate(torch.arange(channels).chunk(block.heads)):
        scores = q[:, part] @ k[:, part].T / len(part) ** 0.5 + bias[head]
        heads.append(scores.softmax(dim=1) @ v[:, part])
    return block.attention_out(torch.cat(heads, dim=1)).reshape(height, width, channels)


@pytest.mark.parametrize(
    ("size", "shift"), [((8, 12), (0, 0)), ((8, 12), (2, 2)), ((4, 8), (0, 2)), ((8, 4), (2, 0)), ((4, 4), (0, 0))]
)
@torch.no_grad()
def test_windows_agree_with_full_attention_cut_by_geometry(size: tuple[int, int], shift: tuple[int, int]) -> None:
    torch.manual_seed(0)
    block = SwinBlock(width=6, heads=2, window=4, hidden=12)
    torch.nn.init.normal_(block.place_bias)
    torch.nn.init.normal_(block.qkv.weight, std=0.5)
    x = torch.randn(2, *size, 6)
    windows = Windows((0, 0), None) if shift == (0, 0) else shifted_windows(*size, 4, x.device)
    assert windows.shift == shift
    got = block.attend(x, relative_places(4), windows)
    for mine, picture in zip(got, x, strict=True):
        torch.testing.assert_close(mine, attention_by_geometry(block, picture, shift), atol=1e-5, rtol=1e-4)


def test_one_window_is_never_shifted() -> None:
    windows = shifted_windows(4, 4, 4, torch.device("cpu"))
    assert windows.shift == (0, 0)
    assert windows.visible is not None
    assert windows.visible.all()


def test_pictures_of_a_batch_do_not_meet() -> None:
    latents = torch.randn(3, 3, 7, 9, generator=torch.Generator().manual_seed(0))
    network = restorer().eval()
    alone = [network(latents[i : i + 1]) for i in range(3)]
    together = network(latents)
    torch.testing.assert_close(together.latents, torch.cat([one.latents for one in alone]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together.log_error, torch.cat([one.log_error for one in alone]), atol=1e-5, rtol=1e-5)


def test_checkpointing_changes_no_gradient() -> None:
    latents = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    gradients = []
    for checkpointing in (False, True):
        network = restorer().train()
        if checkpointing:
            network.enable_gradient_checkpointing()
        restored = network(latents)
        (restored.latents.sum() + restored.log_error.sum()).backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_equation_1_falls_in_20_steps() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(2, 3, 8, 8, generator=generator)
    latents = target + 0.5 * torch.roll(target, 1, dims=3)
    network = restorer()
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(21):
        restored: Restoration = network(latents)
        loss, _ = restoration_loss(restored, target, network.eta, uncertainty_weight=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_half_precision_weights_keep_the_latents_in_float32() -> None:
    latents = torch.randn(1, 3, 7, 9, generator=torch.Generator().manual_seed(0))
    network = restorer().requires_grad_(False)
    exact, half = network(latents), network.bfloat16()(latents)
    assert half.latents.dtype == half.log_error.dtype == torch.float32
    torch.testing.assert_close(half.latents, exact.latents, atol=0.03, rtol=0.03)


def test_saving_and_loading_is_exact(tmp_path: Path) -> None:
    network = restorer(eta=0.3)
    network.save_pretrained(tmp_path)
    loaded = SwinRestorer.from_pretrained(tmp_path)
    latents = torch.randn(1, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    assert loaded.eta == 0.3
    assert torch.equal(loaded(latents).latents, network.eval()(latents).latents)
