"""Table 4 as it was: models that were trained with captions and without a prompt, held against textures."""

import json
from pathlib import Path
from typing import Any

import pytest

from command_files import Call
from lpips_weights import needs_alex
from patchscaler.measure.experiments.record import RESULTS
from patchscaler.measure.experiments.run import run
from patchscaler.measure.experiments.setting import Setting
from text_networks import WIDTH, prompted, save_text_networks


@pytest.fixture(scope="module")
def models(tiny_pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("models")
    texts = save_text_networks(root / "texts")
    prompted(tiny_pipeline, prompt="text", texture_width=WIDTH, **texts).save_pretrained(root / "captioned")
    prompted(tiny_pipeline, prompt="none").save_pretrained(root / "bare")
    return [root / "captioned", root / "bare"]


@needs_alex
def test_models_with_other_prompts_are_rows_of_table_4(
    models: list[Path], tiny_model: Path, training_pictures: Path, tmp_path: Path
) -> None:
    sets = (f"model={models[0]},{models[1]}",)
    setting = Setting(training_pictures, str(tiny_model), side=64, conditions=("bicubic",), metrics="psnr_y", sets=sets)
    values = json.loads((run("prompt", setting, tmp_path, 1) / RESULTS).read_text(encoding="utf-8"))
    rows = [row[0] for row in values["tables"][0]["rows"]]
    assert rows[:3] == ["no prompt", "texture prompt", "one prompt for the picture"]
    assert rows[3:] == ["trained with prompt text: captioned", "trained with prompt none: bare"]
    assert "captioned" in values["verdicts"]["text"]["ran"]
    assert "bare" in values["verdicts"]["texture-none"]["ran"]
    assert str(models[0].parent) not in json.dumps(values)  # nobody's folders
    assert values["setting"]["sets"] == ["model=captioned,bare"]


def test_what_the_prompts_cannot_be_held_against_is_said(
    models: list[Path], call: Call, training_pictures: Path
) -> None:
    twins = call("experiment", "prompt", "--data", "x", "--set", f"model={models[0]},elsewhere/{models[0].name}")
    assert "two folders of one name; rename one" in twins.err
    assert "model=DIR1,DIR2 and no other key" in call("experiment", "prompt", "--data", "x", "--set", "K=1").err
    answer = call("experiment", "prompt", "--data", training_pictures, "--model", models[1], "--device", "cpu")
    assert answer.code
    assert "prompt holds the texture prompt against others" in answer.err
