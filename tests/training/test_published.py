"""Published networks as starting points: what begins with their weights does what they did."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import DiTTransformer2DModel, PixArtTransformer2DModel
from torch import Tensor, nn

from patchscaler.errors import WeightsError
from patchscaler.models.autoencoder import DctAutoencoder
from patchscaler.models.swin_restorer import SwinRestorer, Windows, relative_places
from patchscaler.training.published import (
    begin_patch_dit,
    begin_swin,
    load_transformer,
    read_checkpoint,
    read_compact,
    restorer_from_compact,
)
from random_networks import check_reach, fresh_patch_dit


class Compact(nn.Module):
    """SRVGGNetCompact as its authors wrote it: a flat list `body`, then pixel shuffle and the enlarged input added."""

    def __init__(self, layers: int, width: int = 64) -> None:
        super().__init__()
        self.body = nn.ModuleList([nn.Conv2d(3, width, 3, padding=1), nn.PReLU(width)])
        for _ in range(layers):
            self.body.extend([nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width)])
        self.body.append(nn.Conv2d(width, 48, 3, padding=1))
        for slope in self.body[1::2]:
            nn.init.uniform_(slope.weight, 0.0, 0.5)

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels
        for layer in self.body:
            x = layer(x)
        return F.pixel_shuffle(x, 4) + F.interpolate(pixels, scale_factor=4, mode="nearest")


@pytest.fixture(scope="module")
def compact() -> Compact:
    torch.manual_seed(0)
    return Compact(layers=3).eval()


def test_the_restorer_begins_with_the_compact_networks_picture(compact: Compact, tmp_path: Path) -> None:
    torch.save({"params": compact.state_dict()}, tmp_path / "x4.pth")
    autoencoder = DctAutoencoder(latents_mean=torch.randn(32).tolist(), latents_std=(0.5 + torch.rand(32)).tolist())
    restorer = restorer_from_compact(read_compact(tmp_path / "x4.pth"), autoencoder).eval()
    pixels = torch.rand(1, 3, 32, 40)
    with torch.no_grad():
        got, wanted = restorer(pixels).latents, autoencoder.encode(compact(pixels))
    inner = (..., slice(4, -4), slice(4, -4))  # at the border the paddings differ
    assert got.shape == wanted.shape == (1, 32, 16, 20)
    assert torch.allclose(got[inner], wanted[inner], atol=2e-4)
    assert not torch.allclose(got, wanted, atol=2e-4)


def test_its_reach_is_what_it_says(compact: Compact, tmp_path: Path) -> None:
    torch.save(compact.state_dict(), tmp_path / "x4.pth")
    restorer = restorer_from_compact(read_compact(tmp_path / "x4.pth"), DctAutoencoder())
    check_reach(restorer)


@pytest.mark.parametrize("content", [b"", b"neither", bytes(3_000), bytes(3_000_000)])
def test_other_files_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x4.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"x4\.pth"):
        read_compact(tmp_path / "x4.pth")


def test_another_network_is_refused(tmp_path: Path) -> None:
    torch.save({"params": nn.Linear(2, 2).state_dict()}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="compact"):
        read_compact(tmp_path / "other.pth")
    torch.save({"params": {f"body.{k}": v for k, v in enumerate(nn.Linear(2, 2).parameters())}}, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match="x4"):
        restorer_from_compact(read_compact(tmp_path / "odd.pth"), DctAutoencoder())


# The paper's networks begin with the layers of others


def swinir_attention(x: Tensor, state: dict[str, Tensor], heads: int, window: int) -> Tensor:
    """In a window (n,t,c), as SwinIR's authors define it: the bias is that of the query's place less the key's."""
    places = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    rows, columns = (places[:, None] - places[None] + window - 1).unbind(2)
    bias = state["relative_position_bias_table"][rows * (2 * window - 1) + columns].permute(2, 0, 1)
    n, tokens, width = x.shape
    qkv = F.linear(x, state["qkv.weight"], state["qkv.bias"]).reshape(n, tokens, 3, heads, width // heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(2, 3) * (width // heads) ** -0.5 + bias
    mixed = (scores.softmax(dim=3) @ v).transpose(1, 2).reshape(n, tokens, width)
    return F.linear(mixed, state["proj.weight"], state["proj.bias"])


def test_a_swin_restorer_attends_as_the_swinir_it_began_with() -> None:
    torch.manual_seed(0)
    shapes = {"qkv.weight": (36, 12), "qkv.bias": (36,), "proj.weight": (12, 12), "proj.bias": (12,)}
    state = {name: torch.randn(shape) for name, shape in shapes.items()}
    state["relative_position_bias_table"] = torch.randn(49, 2)
    restorer = SwinRestorer(width=12, groups=1, blocks=2, heads=2, window=4)
    assert begin_swin(restorer, {f"layers.0.residual_group.blocks.1.attn.{k}": v for k, v in state.items()}) == 5
    x = torch.randn(3, 4, 4, 12)
    with torch.no_grad():
        got = restorer.body[0].layers[1].attend(x, relative_places(4), Windows((0, 0), None))
    torch.testing.assert_close(got.flatten(1, 2), swinir_attention(x.flatten(1, 2), state, 2, 4), rtol=1e-3, atol=1e-4)


def test_a_swinir_brings_its_blocks_and_not_its_ends(tmp_path: Path) -> None:
    restorer = SwinRestorer(width=12, groups=2, blocks=2, heads=2, window=4)
    other = SwinRestorer(width=12, groups=1, blocks=2, heads=2, window=4)
    state = {"norm.weight": torch.full((12,), 7.0), "conv_first.weight": torch.ones(12, 3, 3, 3)}
    torch.save({"params_ema": state}, tmp_path / "swinir.pth")
    before = {name: value.clone() for name, value in restorer.state_dict().items()}
    assert begin_swin(restorer, read_checkpoint(tmp_path / "swinir.pth")) == 1
    changed = [name for name, value in restorer.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["norm.weight"]
    with pytest.raises(WeightsError, match="no layer of this SwinIR has the shape of one of ours"):
        begin_swin(other, {"norm.weight": torch.ones(180)})


def tiny_transformer(cls: Any) -> Any:
    """Two blocks of width 16, all parameters random."""
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 3, "num_layers": 2, "sample_size": 4}
    own = {"cross_attention_dim": 16, "caption_channels": 6} if cls is PixArtTransformer2DModel else {}
    transformer = cls(**sizes, **own, norm_num_groups=1)
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return transformer.eval()


def test_patch_dit_does_what_the_pixart_did_that_it_began_with(tmp_path: Path) -> None:
    """But for what they read beside the tokens: without texture prompt, and with the caption's output at zero."""
    pixart = tiny_transformer(PixArtTransformer2DModel)
    for block in pixart.transformer_blocks:
        for parameter in block.attn2.to_out[0].parameters():
            torch.nn.init.zeros_(parameter)
    pixart.save_pretrained(tmp_path)
    dit = fresh_patch_dit(depth=3)
    assert begin_patch_dit(dit, load_transformer(tmp_path)) == 7 + 2 * 11
    t, x = torch.tensor([0, 700]), torch.randn(2, 4, 16)
    with torch.no_grad():
        modulation, time = pixart.adaln_single(
            t, {"resolution": None, "aspect_ratio": None}, 2, hidden_dtype=torch.float32
        )
        own_time, own_modulation = dit.modulate(t)
        torch.testing.assert_close(own_time, time, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(own_modulation[:, :6].flatten(1), modulation, rtol=1e-4, atol=1e-4)
        wanted, got = x, x
        for theirs, ours in zip(pixart.transformer_blocks, dit.layers, strict=False):
            wanted = theirs(wanted, encoder_hidden_states=torch.randn(2, 5, 16), timestep=modulation)
            got = ours(got, own_modulation, None)
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)


def test_of_a_dit_attention_and_mlp_are_taken(tmp_path: Path) -> None:
    original = tiny_transformer(DiTTransformer2DModel)
    dit = fresh_patch_dit()
    assert begin_patch_dit(dit, original) == 2 * 8
    block = original.transformer_blocks[1]
    assert torch.equal(dit.layers[1].mlp_in.weight, block.ff.net[0].proj.weight)
    assert torch.equal(dit.layers[1].qkv.weight[16:32], block.attn1.to_k.weight)
    with pytest.raises(WeightsError, match="no layer of this PixArt or DiT transformer has the shape"):
        begin_patch_dit(fresh_patch_dit(width=24), original)
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(WeightsError, match="holds UNet2DModel, not a PixArt or DiT"):
        load_transformer(tmp_path)
