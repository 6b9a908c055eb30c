"""Experiments run on real, tiny networks and leave what the page on replication is written from."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr

from command_files import Call
from lpips_weights import needs_alex
from patchscaler.data.degrading import degrade_folder
from patchscaler.errors import ConfigError, DataError
from patchscaler.imaging.files import read_picture
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.resize import resize_bicubic
from patchscaler.measure.experiments import groups, prompt, runtime
from patchscaler.measure.experiments.ablation import groups_of, parse_sets
from patchscaler.measure.experiments.catalogue import ABLATION, CATALOGUE, CLAIMS, PLUG_IN
from patchscaler.measure.experiments.record import RESULTS, Table, plot_of
from patchscaler.measure.experiments.run import RUNNERS, run
from patchscaler.measure.experiments.setting import Setting
from patchscaler.measure.intervals import FEWEST, bootstrap, difference
from patchscaler.measure.models import with_memory_of, with_top_k
from patchscaler.measure.pairing import read_pixels
from patchscaler.measure.peers import Peer
from patchscaler.measure.sets import GIVEN, Samples, Source, look, open_samples, spread
from patchscaler.models.loading import arguments_of
from patchscaler.pgs import GroupConfig


@pytest.fixture
def setting(tiny_model: Path, training_pictures: Path) -> Setting:
    return Setting(training_pictures, str(tiny_model), side=64, conditions=("bicubic",), metrics="psnr_y")


@needs_alex
@pytest.mark.slow
@pytest.mark.parametrize("name", CATALOGUE)
def test_every_experiment_leaves_its_record(
    name: str, setting: Setting, tiny_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = dataclasses.replace(
        setting,
        backbone=str(tiny_backbone) if name == PLUG_IN else None,
        sets=("overlap=0,4", "K=1", "groups=1,4", "gammas=0.9/0.6") if name == ABLATION else (),
    )
    monkeypatch.setattr(runtime, "SIDES", (16, 48))
    threads, lines = torch.get_num_threads(), list[str]()
    # Workers take seconds to start, and all plans of pgs take their time.
    place = run(name, setting, tmp_path, 1 if name in ("runtime", "pgs") else 2, lines.append)
    assert torch.get_num_threads() == threads
    assert lines
    values = json.loads((place / RESULTS).read_text(encoding="utf-8"))
    assert set(values["verdicts"]) == {key for key, claim in CLAIMS.items() if claim.experiment == name}
    assert all(verdict["figure"] and verdict["ran"] for verdict in values["verdicts"].values())
    assert values["setting"]["model"] == Path(setting.model).name
    assert values["setting"]["data"] == setting.data.name
    assert values["machine"]["cores"] >= 1
    assert len(values["weights_sha256"]) == 64
    assert "the default's steps" in str(values) or "0,3,4" in str(values) or name == PLUG_IN
    assert str(setting.data.parent) not in (place / RESULTS).read_text(encoding="utf-8")  # nobody's folders
    for table in values["tables"]:
        assert table["rows"]
        assert all(len(row) == len(table["columns"]) for row in table["rows"])
    for picture in (plot_of(name), *values["maps"]):
        with Image.open(place / picture) as image:
            assert min(image.size) >= 64
    text = (place / "README.md").read_text(encoding="utf-8")
    assert values["machine"]["processor"] in text
    assert text.count("\n| ") >= sum(len(table["rows"]) for table in values["tables"])


def test_every_experiment_is_known_and_every_claim_leads_somewhere() -> None:
    assert set(RUNNERS) == set(CATALOGUE)
    for claim in CLAIMS.values():
        assert claim.experiment in CATALOGUE if claim.experiment else claim.reason


def many(pictures: Path, folder: Path, count: int) -> Path:
    """A folder of as many pictures, of which each four are one another's copies."""
    folder.mkdir(parents=True)
    for number in range(count):
        shutil.copy(pictures / f"{number % 4}.png", folder / f"{number}.png")
    return folder


@needs_alex
def test_peers_are_held_against_ours(setting: Setting, tmp_path: Path) -> None:
    """A perfect peer is better than an untrained model; pairs are taken as the folder has them."""
    degrade_folder(many(setting.data, tmp_path / "sharp", FEWEST), tmp_path / "set", "bicubic")
    shutil.copytree(tmp_path / "set" / "hr", tmp_path / "perfect")
    perfect = Peer("perfect", str(tmp_path / "perfect"))
    pairs = Setting(tmp_path / "set", setting.model, metrics="psnr_y", peers=(perfect,))
    place = run("quality", pairs, tmp_path / "out", FEWEST)
    values = json.loads((place / RESULTS).read_text(encoding="utf-8"))
    assert values["verdicts"]["peers"]["holds"] is False
    assert "perfect 0.000" in values["verdicts"]["peers"]["figure"]
    assert "perfect" in [row[0] for row in values["tables"][0]["rows"]]
    assert values["setting"]["peers"] == {"perfect": "perfect"}
    assert len(values["pictures"]) == FEWEST
    few = json.loads((run("quality", pairs, tmp_path / "few", 0) / RESULTS).read_text())
    assert few["pictures"] == values["pictures"]


@needs_alex
@pytest.mark.parametrize("name", ["quality", "groups", "prompt"])
def test_pictures_without_a_ground_truth_stay_as_they_are(name: str, setting: Setting, tmp_path: Path) -> None:
    """They are enlarged, not degraded first, and judged by what needs no ground truth: here NIQE."""
    own = dataclasses.replace(setting, no_reference=True, metrics="default", side=0 if name == "quality" else 256)
    values = json.loads((run(name, own, tmp_path, 2) / RESULTS).read_text(encoding="utf-8"))
    columns = [column for column, _ in values["tables"][0]["columns"]]
    assert "niqe" in columns
    assert "psnr_y" not in columns
    assert all(verdict["holds"] is None for verdict in values["verdicts"].values())
    if name != "quality":
        assert all(text.endswith(f"({GIVEN})") for text in values["pictures"])
        assert values["varied"]["judge"] == "niqe"


def samples_of(source: Source, folder: Path, count: int = 0, side: int = 64) -> Samples:
    conditions = ("bicubic", "camera", "mild", "real_esrgan")
    return open_samples(source, folder, count=count, side=side, conditions=conditions, seed=0)


def test_what_a_folder_holds(training_pictures: Path, tmp_path: Path) -> None:
    assert look(training_pictures) == Source(training_pictures, None)
    assert look(training_pictures, no_reference=True) == Source(None, training_pictures)
    degrade_folder(training_pictures, tmp_path / "set", "bicubic")
    assert look(tmp_path / "set") == Source(tmp_path / "set" / "hr", tmp_path / "set" / "lr")
    assert look(tmp_path / "set", no_reference=True) == Source(None, tmp_path / "set" / "lr")
    shutil.rmtree(tmp_path / "set" / "hr")
    assert look(tmp_path / "set") == Source(None, tmp_path / "set" / "lr")
    (tmp_path / "RealSet65").mkdir()
    for name in ("00003.png", "ADE_val_00000114.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / "RealSet65" / name)
    assert look(tmp_path / "RealSet65") == Source(None, tmp_path / "RealSet65")


def test_pairs_of_a_folder_are_cut_at_the_same_place(training_pictures: Path, tmp_path: Path) -> None:
    degrade_folder(training_pictures, tmp_path / "set", "bicubic")
    samples = samples_of(look(tmp_path / "set"), tmp_path / "cut")
    assert list(samples.conditions.values()) == [GIVEN] * 4
    assert samples.section.references
    assert samples.section.inputs
    for stem, path in samples.section.inputs.items():
        lr, hr = read_pixels(path), read_pixels(samples.section.references[stem])
        assert hr.shape[-2:] == (64, 64)
        small = torch.from_numpy(resize_bicubic(hr.numpy(), Size(16, 16)))
        assert (small - lr)[..., 2:-2, 2:-2].abs().max() < 0.01  # but for what lies beyond the border
    (tmp_path / "set" / "lr" / "0.png").unlink()
    with pytest.raises(DataError, match="1 of 4 pictures are missing"):
        samples_of(look(tmp_path / "set"), tmp_path / "again")


def test_sharp_pictures_take_turns_in_what_makes_them_small(training_pictures: Path, tmp_path: Path) -> None:
    source = look(training_pictures)
    first, again = (samples_of(source, tmp_path / name, side=0) for name in ("first", "again"))
    assert list(first.conditions.values()) == ["bicubic", "camera", "mild", "real_esrgan"]
    assert first.section.inputs
    assert first.section.references
    assert again.section.inputs
    for stem, path in first.section.inputs.items():
        assert path.read_bytes() == again.section.inputs[stem].read_bytes()
        assert read_picture(first.section.references[stem]).size.width == 4 * read_picture(path).size.width
    assert list(samples_of(source, tmp_path / "two", 2).conditions) == ["1", "3"]


def test_pictures_are_spread_evenly() -> None:
    assert spread(range(48), 4) == [6, 18, 30, 42]
    assert spread(range(3), 5) == spread(range(3), 0) == [0, 1, 2]


def test_intervals_hold_what_they_should() -> None:
    """The interval of a mean covers the true one about as often as it says; of few values nobody knows."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        found = difference(rng.normal(0.3, 1, 20).tolist(), [0.0] * 20)
        covered += found.low <= 0.3 <= found.high
    assert 0.86 <= covered / 200 <= 0.99
    assert difference([1.0, 2.0], [0.0, float("nan")]).rises is None
    clear = difference([3.0, 5.0, 4.0, float("nan"), 4.5, 5.5, 6.0], [1.0, 2.0, 3.0, 3.0, 1.0, 2.0, 2.0])
    assert clear.value == pytest.approx(17 / 6)
    assert (clear.rises, clear.falls) == (True, False)
    assert difference([-1.0] * 6, [0.0] * 6).falls
    assert str(difference([1.0], [2.0])) == "-1.0000 [too few pictures]"
    assert bootstrap(0, lambda numbers: 1.0).rises is None


def test_groups_lie_between_the_papers_ends() -> None:
    assert groups_of(3) == {"gammas": (0.95, 0.75), "taus": (400, 700, 1000), "steps": (8, 14, 20)}
    assert groups_of(1) == {"gammas": (), "taus": (1000,), "steps": (20,)}
    assert groups_of(2)["gammas"] == (0.85,)
    for count in range(1, 9):
        assert len(GroupConfig(**groups_of(count)).names) == count


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("V=8,16", "V is trained"),
        ("colour=1", "choose a key of groups"),
        ("overlap=", "give each key once"),
        ("overlap", "give each key once"),
    ],
)
def test_what_cannot_be_varied_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_sets([text])
    with pytest.raises(ConfigError, match="give each key once"):
        parse_sets(["K=1", "K=2"])
    assert parse_sets(["K=1,2", "gammas=0.9/0.5,0.8/0.2"]) == {"K": ("1", "2"), "gammas": ("0.9/0.5", "0.8/0.2")}


def test_ranks_are_spearmans() -> None:
    one, other = [0.1, 0.4, 0.4, 0.9, 0.2, 0.4], [3.0, 1.0, 2.0, 2.0, 2.5, 0.0]
    assert groups.rank_correlation(one, other) == pytest.approx(spearmanr(one, other).statistic)


def test_prompts_are_what_they_are_called(tiny_pipeline: Any) -> None:
    patches = torch.randn(3, 32, 16, 16, generator=torch.Generator().manual_seed(0))
    own = tiny_pipeline.prompt(patches).keys
    more = with_top_k(tiny_pipeline, 3).prompt(patches).keys
    tokens = own.shape[-2] // 2
    assert more.shape[-2] == 3 * tokens
    torch.testing.assert_close(more[..., : 2 * tokens, :], own, atol=1e-5, rtol=1e-4)
    few = with_memory_of(tiny_pipeline, 7)
    assert torch.equal(few.texture_memory.texture_keys, tiny_pipeline.texture_memory.texture_keys[:7])
    assert int(few.texture_memory.retrieve(few.texture_classifier(patches), 2).places.max()) < 7
    query = prompt.PictureQuery(**arguments_of(tiny_pipeline.texture_classifier.config))
    query.load_state_dict(tiny_pipeline.texture_classifier.state_dict())
    torch.testing.assert_close(query(patches), tiny_pipeline.texture_classifier(patches))
    query.picture = query(patches[:1])
    assert torch.equal(query(patches), query.picture.expand(3, -1))


def test_numbers_are_printed_as_the_columns_say() -> None:
    table = Table("t", [("", 0), ("a", 2), ("b", 0)], [["x", 1.005, 12345], ["y", None, float("nan")]])
    assert table.markdown() == "|  | a | b |\n|---|---:|---:|\n| x | 1.00 | 12,345 |\n| y |  |  |\n"


def test_what_cannot_be_run_is_said(call: Call, training_pictures: Path) -> None:
    answer = call("experiment", "speed", "--data", training_pictures)
    assert (answer.code, answer.out) == (2, "")
    assert "experiment speed: choose all, pgs, groups, prompt, runtime, quality, plug-in, ablation" in answer.err
    assert "only quality compares" in call("experiment", "pgs", "--data", "x", "--peer", "a=b").err
    assert "only plug-in runs another" in call("experiment", "pgs", "--data", "x", "--backbone", "y").err
    assert (
        "only ablation varies options, and prompt models"
        in call("experiment", "pgs", "--data", "x", "--set", "K=1").err
    )
    assert "V is trained" in call("experiment", ABLATION, "--data", "x", "--set", "V=8").err
    assert "name it with --set" in call("experiment", ABLATION, "--data", training_pictures).err
    assert "is for a --backbone" in call("experiment", "all", "--data", "x", "--backbone-style", "x4").err
    answer = call("experiment", PLUG_IN, "--data", training_pictures)
    assert (answer.code, answer.out) == (2, "")
    assert "plug-in runs another diffusers pipeline: name it with --backbone ID_OR_DIR" in answer.err
    with pytest.raises(ConfigError, match='"foggy" is unknown'):
        Setting(training_pictures, conditions=("foggy",))
    with pytest.raises(ConfigError, match="side 40 must be a multiple of 16"):
        Setting(training_pictures, side=40)


@needs_alex
def test_a_command_prints_the_page(call: Call, setting: Setting, tmp_path: Path) -> None:
    options = (
        "--model",
        setting.model,
        "--conditions",
        "bicubic",
        "--pictures",
        "1",
        "--metrics",
        "psnr_y",
        "--device",
        "cpu",
    )
    answer = call("experiment", "quality", "--data", setting.data, "-o", tmp_path / "r", *options)
    assert answer.code == 0
    assert (tmp_path / "r" / "quality" / "README.md").read_text(encoding="utf-8") in answer.out
