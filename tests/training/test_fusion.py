"""The fusion's training: which parts learn, and what is computed once; and the texture distance that it learns from."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from patchscaler.cli.train import Part, types_of
from patchscaler.data.pairs import PairDataset
from patchscaler.models.rrdb import RrdbRestorer
from patchscaler.training.fusion import opinions
from patchscaler.training.picture_loss import texture_distance
from patchscaler.training.settings import build
from training_runs import needs_vgg, run_training

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture
def second_restorer(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    RrdbRestorer(latent_channels=6, width=4, growth=4, blocks=3).save_pretrained(tmp_path / "rrdb")
    return tmp_path / "rrdb"


@needs_vgg
def test_the_last_blocks_learn_along_and_the_first_stay(table: Any, tmp_path: Path, second_restorer: Path) -> None:
    settings = table("fusion") | {"second_restorer": str(second_restorer), "second_blocks": 1, "texture_weight": 0.5}
    run_training("fusion", settings)
    before = RrdbRestorer.from_pretrained(second_restorer).state_dict()
    after = RrdbRestorer.from_pretrained(tmp_path / "run/weights/second_restorer").state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[0] for name in changed} == {"body", "close", "rise", "fine", "exit"}
    assert {name.split(".")[1] for name in changed if name.startswith("body.")} == {"2"}


@needs_vgg
@pytest.mark.parametrize("blocks", [0, 2])
def test_what_is_computed_once_and_the_last_blocks_are_the_whole_restorer(
    table: Any, second_restorer: Path, blocks: int
) -> None:
    settings_type, task_type = types_of(Part.fusion)
    settings = table("fusion") | {"second_restorer": str(second_restorer), "second_blocks": blocks}
    settings["cache"]["precision"] = "fp32"
    task = task_type(build(settings_type, settings))
    crops = task.dataset().crops
    batch = {name: torch.stack([crops.square(n, 0, 0, 8)[name] for n in range(2)]) for name in crops.arrays}
    pairs = PairDataset(task.settings.pictures, task.settings.pairs, task.settings.cache.seed)
    lr = torch.stack([pairs[n]["lr"] for n in range(2)])
    with torch.no_grad():
        features, first, second = opinions(task.second, blocks, batch)
        whole = task.second(lr)
        restored, wanted = task.restorer(lr, with_features=True)
    # kept in half precision
    assert torch.allclose(second.latents, whole.latents, atol=2e-3)
    assert torch.allclose(second.features, whole.features, atol=2e-3)
    assert torch.allclose(first.latents, restored.latents, atol=2e-3)
    assert torch.allclose(features[..., 1:-1, 1:-1], wanted[..., 1:-1, 1:-1], atol=2e-3)


def texture(seed: int, strength: float = 1.0) -> list[Tensor]:
    """Taps of 4 and 8 channels at strides 1 and 2, with noise of this strength on their right half."""
    generator = torch.Generator().manual_seed(seed)
    taps = []
    for channels, side in ((4, 64), (8, 32)):
        noise = torch.randn(1, channels, side, side, generator=generator)
        noise[..., : side // 2] = 0
        taps.append(1 + strength * noise)
    return taps


def test_the_texture_distance_asks_how_much_and_not_where() -> None:
    wanted = texture(0)
    other = float(texture_distance(texture(1), wanted))
    weaker = float(texture_distance(texture(1, 0.5), wanted))
    smooth = float(texture_distance([F.avg_pool2d(tap, 9, 1, 4) for tap in wanted], wanted))
    mirrored = float(texture_distance([tap.flip(-1) for tap in wanted], wanted))
    assert float(texture_distance(wanted, wanted)) == 0
    assert other < 0.02 < 0.05 < weaker < smooth
    assert mirrored > 0.3, "textures on the wrong half are not these textures"


def test_the_texture_distance_has_gradients_where_nothing_is() -> None:
    flat = [torch.ones(1, 4, 64, 64, requires_grad=True), torch.ones(1, 8, 32, 32, requires_grad=True)]
    texture_distance(flat, texture(0)).backward()
    for tap in flat:
        assert tap.grad is not None
        assert torch.isfinite(tap.grad).all()
    assert float(texture_distance([tap.detach() for tap in flat], [torch.ones_like(tap) for tap in flat])) == 0
