"""Settings files: what a run is, and what is wrong with one, said by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from patchscaler.cli.train import Part, types_of
from patchscaler.cli.train import train as train_command
from patchscaler.errors import ConfigError, DataError, WeightsError
from patchscaler.training.settings import build, read_toml, with_values
from training_runs import PARTS, run_training

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"uncertainty_weight": 0.7}, "uncertainty_weight"),
        ({"model": {"width": 8, "blocks": 2}}, "model.blocks"),
        ({"model": {"width": 8}}, "model.blocks"),
        ({"model": {}}, "model.width"),
        ({"pairs": {"crop": 32, "mixture": {"mild": 1.0}}}, "pairs.mixture.mild"),
    ],
)
def test_a_folder_begun_with_other_settings_is_refused(
    change: dict[str, Any], named: str, table: Any, tmp_path: Path
) -> None:
    run_training("restorer", table("restorer", steps=1))
    before = (tmp_path / "run" / "settings.json").read_text()
    with pytest.raises(ConfigError, match=rf"run was begun with another {named}"):
        run_training("restorer", table("restorer") | change)
    with pytest.raises(ConfigError, match=r"run\.learning_rate"):
        run_training("restorer", table("restorer", learning_rate=1.0))
    assert (tmp_path / "run" / "settings.json").read_text() == before
    run_training("restorer", table("restorer", steps=2, validate_every=2, log_every=1))  # these may change


def write_toml(path: Path, table: dict[str, Any]) -> Path:
    def lines(table: dict[str, Any], where: str) -> list[str]:
        own = [f"{key} = {json.dumps(value)}" for key, value in table.items() if not isinstance(value, dict)]
        inner = [(f"{where}{key}", value) for key, value in table.items() if isinstance(value, dict)]
        return own + [line for name, value in inner for line in (f"[{name}]", *lines(value, f"{name}."))]

    path.write_text("\n".join(lines(table, "")))
    return path


@pytest.mark.parametrize("part", PARTS)
def test_a_settings_file_says_what_the_run_is(part: str, table: Any, tmp_path: Path) -> None:
    file = write_toml(tmp_path / "run.toml", table(part))
    train_command(Part(part), file)
    settings_type, _ = types_of(Part(part))
    recorded = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert build(settings_type, recorded | {"run": table(part)["run"]}) == build(settings_type, read_toml(file))


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("part", PARTS)
def test_a_dry_run_writes_nothing(
    part: str, cached: bool, table: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_toml(tmp_path / "run.toml", table(part))
    if cached:
        run_training("restorer", table("restorer", "other", steps=1))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    train_command(Part(part), file, dry_run=True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert "a batch of 2: loss" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"unheard": 1}, "unknown key unheard; known: autoencoder, "),
        ({"run": {"folder": "x", "step": 1}}, r"unknown key run\.step;"),
        ({"pairs": {"crops": 32}}, r"unknown key pairs\.crops;"),
        ({"run": {"steps": 1}}, r"\[run\] .*folder"),
        ({"run": {"folder": "x", "steps": "many"}}, r"run\.steps = 'many' has the wrong type"),
        ({"run": {"folder": "x", "steps": 1.5}}, r"run\.steps = 1\.5 has the wrong type"),
        ({"run": {"folder": "x", "steps": True}}, r"run\.steps = True has the wrong type"),
        ({"run": {"folder": "x", "learning_rate": True}}, r"run\.learning_rate = True has the wrong type"),
        ({"run": {"folder": "x", "compile": 1}}, r"run\.compile = 1 has the wrong type"),
        ({"run": {"folder": "x", "betas": [0.9]}}, r"run\.betas = \[0\.9\] has the wrong type"),
        ({"run": {"folder": "x", "betas": [0.9, "b"]}}, r"run\.betas\[1\] = 'b' has the wrong type"),
        ({"run": 3}, "run = 3 has the wrong type"),
        ({"pairs": {"mixture": {"mild": "much"}}}, r"pairs\.mixture\.mild = 'much' has the wrong type"),
        ({"pairs": {"mixture": {"wild": 1.0}}}, "give positive shares of bicubic"),
        ({"run": {"folder": "x", "steps": 0}}, r"run\.steps 0 must be at least 1"),
        ({"run": {"folder": "x", "precision": "int4"}}, r'run\.precision "int4": choose fp32'),
        ({"run": {"folder": "x", "best": "psnr_y"}}, r'run\.best "psnr_y": write "max FIGURE"'),
        ({"run": {"folder": "x", "accumulation": 0}}, r"run\.accumulation 0 must be at least 1"),
    ],
)
def test_wrong_settings_are_refused_by_name(change: dict[str, Any], reason: str, table: Any, tmp_path: Path) -> None:
    settings_type, _ = types_of(Part.restorer)
    file = write_toml(tmp_path / "run.toml", table("restorer") | change)
    with pytest.raises(ConfigError, match=reason):
        build(settings_type, read_toml(file))


def test_any_value_of_the_file_can_be_set_on_the_command_line(table: Any, tmp_path: Path) -> None:
    file = write_toml(tmp_path / "run.toml", table("restorer"))
    changes = ["run.steps=1", "pairs.mixture.mild = 0.25", "model.width=4", "run.best=min l1", "pictures.min_side=50"]
    train_command(Part.restorer, file, changes=changes)
    recorded = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert (recorded["run"]["steps"], recorded["run"]["best"]) == (1, "min l1")
    assert (recorded["model"]["width"], recorded["pictures"]["min_side"]) == (4, 50)
    assert recorded["pairs"] == {"crop": 32, "draws": 2, "mixture": {"mild": 0.25}}
    assert with_values({"a": {"b": 1}}, ["a.c=[1, 2]", "d.e=true"]) == {"a": {"b": 1, "c": [1, 2]}, "d": {"e": True}}
    for wrong, reason in (("run.steps", "write KEY=VALUE"), ("run.steps.x=1", "steps is a value, not a table")):
        with pytest.raises(ConfigError, match=reason):
            with_values({"run": {"steps": 1}}, [wrong])
    with pytest.raises(ConfigError, match=r"unknown key run\.step;"):
        train_command(Part.restorer, file, changes=["run.step=1"])


def test_a_settings_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: no such settings file"):
        read_toml(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("run = [")
    with pytest.raises(ConfigError, match=r"bad\.toml: not valid TOML"):
        read_toml(tmp_path / "bad.toml")


def test_what_a_run_needs_is_named(table: Any, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nowhere: no DctAutoencoder here"):
        run_training("restorer", table("restorer") | {"autoencoder": "nowhere"})
    with pytest.raises(WeightsError, match="nowhere: no ConvRestorer here"):
        run_training("texture", table("texture") | {"restorer": "nowhere"})
    with pytest.raises(WeightsError, match="nowhere: no ReferenceTextureMemory here"):
        run_training("patch-dit", table("patch-dit") | {"memory": "nowhere"})
    with pytest.raises(ConfigError, match=r"no patch of 8: set pairs\.crop to 64"):
        run_training("patch-dit", table("patch-dit") | {"pairs": {"crop": 32}})
    with pytest.raises(DataError, match="nowhere: no pictures in this folder"):
        run_training("restorer", table("restorer", "other") | {"validation": "nowhere"})
    assert not (tmp_path / "other").exists()
