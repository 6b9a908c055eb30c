"""Table 3 on a real, tiny latent diffusion upscaler: what is counted, what is judged, and what `all` leaves out."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import patchscaler.cli.experiment
from command_files import Call
from lpips_weights import needs_alex
from patchscaler.integrations.frame import Coarse
from patchscaler.measure.experiments import plug_in
from patchscaler.measure.experiments.catalogue import CATALOGUE, PLUG_IN
from patchscaler.measure.experiments.record import RESULTS
from patchscaler.measure.experiments.setting import Setting
from patchscaler.measure.experiments.trial import Trial
from patchscaler.measure.intervals import FEWEST
from patchscaler.measure.rows import Row, Section
from patchscaler.measure.sets import Samples
from patchscaler.metrics.choice import Metric


@pytest.fixture
def setting(tiny_model: Path, training_pictures: Path) -> Setting:
    return Setting(training_pictures, str(tiny_model))


@needs_alex
def test_plug_in_counts_what_the_network_is_asked(
    call: Call, setting: Setting, tiny_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record says how often the borrowed U-Net was called; a confidence that falls makes all three groups."""
    rows, loaded = list[int](), plug_in.load_backbone

    def counted(*arguments: Any) -> Any:
        pipe, adapter = loaded(*arguments)
        pipe.unet.register_forward_pre_hook(lambda module, given: rows.append(len(given[0])))
        return pipe, adapter

    def falling(*arguments: Any) -> Any:
        coarse = Coarse.of(*arguments)
        # The columns of tiles are 4 cells wide and begin at cells 0, 3 and 4.
        row = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.8, 0.8, 0.8, 0.0])
        return coarse._replace(confidence=row.expand_as(coarse.confidence).contiguous())

    monkeypatch.setattr(plug_in, "load_backbone", counted)
    monkeypatch.setattr(plug_in, "Coarse", SimpleNamespace(of=falling))
    named = ("--backbone", tiny_backbone, "--backbone-style", "ldm", "--device", "cpu", "--dtype", "float32")
    common = ("--model", setting.model, "--pictures", "2", "--side", "64", "--metrics", "psnr_y", "-o", tmp_path / "r")
    answer = call("experiment", PLUG_IN, "--data", setting.data, *common, *named)
    assert answer.code == 0
    values = json.loads((tmp_path / "r" / PLUG_IN / RESULTS).read_text(encoding="utf-8"))
    assert (values["setting"]["backbone"], values["varied"]["style"]) == (tiny_backbone.name, "ldm")
    assert len(values["varied"]["pipeline_weights_sha256"]) == 64
    assert f"pipeline `{tiny_backbone.name}`" in answer.out
    (_, _, _, tiles, full), (_, simple, medium, hard, spent) = values["tables"][1]["rows"]
    assert tiles == simple + medium + hard
    assert min(simple, medium, hard) > 0
    assert full == 20
    assert spent == pytest.approx((8 * simple + 14 * medium + 20 * hard) / tiles)
    # The round that isn't measured is the first picture's with all steps: half of them.
    assert sum(rows) == pytest.approx(1.5 * 20 * tiles + spent * tiles)
    names, work = [row[0] for row in values["tables"][0]["rows"]], [row[-1] for row in values["tables"][0]["rows"]]
    assert names == [plug_in.UNIFORM, plug_in.ADAPTIVE, plug_in.COARSE]
    assert work == [20 * tiles, round(spent * tiles), 0]
    assert f"{spent:.2f} evaluations per tile against 20.00" in values["verdicts"][PLUG_IN]["figure"]


def test_plug_in_claims_speed_and_quality_by_their_own_figures() -> None:
    lpips = Metric("lpips_alex", "", "lower", 3, True, lambda truth: lambda picture: 0.0)
    trial = Trial(Setting(Path()), Samples(Section(None, ""), {}), [lpips], Path(), print)

    def measured(seconds: float, lpips: float, work: float) -> Row:
        row = Row("row")
        for number in range(FEWEST):
            more = number / 1000
            row.note(str(number), seconds=seconds + more, lpips_alex=lpips + more, patch_steps=work)
        return row

    def verdicts(adaptive: Row) -> list[bool | None]:
        found = {
            plug_in.UNIFORM: measured(9.0, 0.3, 80.0),
            plug_in.ADAPTIVE: adaptive,
            plug_in.COARSE: measured(1.0, 0.5, 0.0),
        }
        tiles = {name: Counter({0: 8}) for name in found}
        judged = plug_in._verdicts(trial, found, tiles, "r")
        return [judged["plug-in"].holds, judged["plug-in-quality"].holds]

    assert verdicts(measured(3.0, 0.2, 40.0)) == [True, True]
    assert verdicts(measured(3.0, 0.4, 40.0)) == [True, False]
    assert verdicts(measured(9.5, 0.3, 40.0)) == [False, False]
    assert verdicts(measured(3.0, 0.2, 80.0)) == [False, True]  # faster by chance, not by less work


@needs_alex
def test_all_leaves_plug_in_out_without_a_backbone(
    call: Call, setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = {name: CATALOGUE[name] for name in ("prompt", PLUG_IN)}  # the others take their time and have their tests
    monkeypatch.setattr(patchscaler.cli.experiment, "CATALOGUE", two)
    common = ("--model", setting.model, "--pictures", "1", "--side", "64", "--metrics", "psnr_y", "--device", "cpu")
    answer = call("experiment", "all", "--data", setting.data, "-o", tmp_path / "r", *common)
    assert answer.code == 0
    assert "plug-in: left out, since no other pipeline is named (--backbone ID_OR_DIR)\n" in answer.err
    assert [path.name for path in (tmp_path / "r").iterdir()] == ["prompt"]
    values = json.loads((tmp_path / "r" / "prompt" / RESULTS).read_text(encoding="utf-8"))
    assert values["setting"]["backbone"] is None
