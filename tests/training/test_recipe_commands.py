"""Every command of docs/paper-training.md and docs/replication.md runs as it stands there, at reduced size."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from command_files import Call
from lpips_weights import needs_alex
from pages import ROOT, blocks, script
from patchscaler.data.degrading import degrade_folder
from patchscaler.measure.experiments import runtime
from patchscaler.measure.experiments.catalogue import ABLATION, CATALOGUE, PLUG_IN
from patchscaler.measure.experiments.record import RESULTS
from patchscaler.presets import PAPER
from patchscaler.training.settings import read_toml
from text_networks import save_text_networks

write_replication = script("write_replication")
pytestmark = [pytest.mark.usefixtures("fresh_accelerator"), pytest.mark.slow]
LAUNCHERS = r"^(accelerate launch .*|torchrun .*)-m patchscaler "
# They fetch packages and weights.
FETCHING = ("pip install", 'python -c "from diffusers import AutoencoderKL')
SMALL: dict[str, dict[str, Any]] = {
    "restorer": {"model": {"width": 12, "groups": 1, "blocks": 2, "heads": 2}, "pairs": {"crop": 128}},
    "texture": {"model": {"width": 8, "blocks": 1, "features": 8}, "held_out": 4},
    "patch-dit": {"model": {"width": 32, "depth": 1, "heads": 2}, "encoder": {"width": 16, "top_k": 2}},
}
RUN = {"steps": 2, "decay_steps": 0, "batch_size": 2, "workers": 0, "precision": "fp32", "warmup_steps": 1}


def commands(page: str) -> list[str]:
    """Of the blocks that hold commands, line by line."""
    joined = "\n".join(blocks(ROOT / "docs" / page, "")).replace("\\\n", " ")
    return [line.split("  #")[0].strip() for line in joined.splitlines() if line.strip()]


def write_toml(table: dict[str, Any], path: Path) -> None:
    def lines(part: dict[str, Any], where: str) -> Iterator[str]:
        yield from (f"{key} = {json.dumps(value)}" for key, value in part.items() if not isinstance(value, dict))
        for key, value in part.items():
            if isinstance(value, dict):
                yield from (f"[{where}{key}]", *lines(value, f"{where}{key}."))

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines(table, "")))


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """What the recipe starts from: its settings with small networks, an autoencoder, pictures."""
    for part, small in SMALL.items():
        table = read_toml(ROOT / "configs/paper" / f"{part}.toml")
        table["run"] |= RUN
        table["pictures"] |= {"min_side": 256}
        for key, value in small.items():
            table[key] = table.get(key, {}) | value if isinstance(value, dict) else value
        write_toml(table, tmp_path / "configs/paper" / f"{part}.toml")
    sizes = {"block_out_channels": (8, 8, 16, 16), "layers_per_block": 1, "norm_num_groups": 4}
    vae: Any = PAPER.changed(autoencoder=sizes).autoencoder.build()
    vae.save_pretrained(tmp_path / "weights/sd-vae")
    rng = np.random.default_rng(0)
    for folder in ("train", "memory", "validation"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for number in range(2):
            noise = Image.fromarray(rng.integers(0, 256, (34, 36, 3), dtype=np.uint8))
            noise.resize((288, 272), Image.Resampling.BICUBIC).save(tmp_path / "data" / folder / f"{number}.png")
    return tmp_path


@needs_alex
def test_the_recipe_runs_from_an_empty_folder_to_table_4(desk: Path, call: Call, tmp_path: Path) -> None:
    texts = save_text_networks(tmp_path / "texts")
    asked = []
    for line in commands("paper-training.md"):
        if line.startswith(FETCHING):
            continue
        program, *arguments = shlex.split(re.sub(LAUNCHERS, "patchscaler ", line))
        assert program == "patchscaler", line
        asked.append(arguments[0])
        if arguments[0] == "memory":
            arguments += ["--size", "5"]
        if "model.prompt=text" in arguments:
            arguments += [word for name, place in texts.items() for word in ("--set", f"model.{name}={place}")]
        if arguments[0] == "experiment":
            arguments += ["--pictures", "1", "--side", "128", "--conditions", "bicubic", "--metrics", "psnr_y"]
            arguments += ["--device", "cpu"]
        answer = call(*arguments)
        assert answer.code == 0, f"{line}: {answer.err}"
    assert set(asked) == {"train", "memory", "calibrate", "assemble", "experiment"}
    record = json.loads((desk / "results/prompt" / RESULTS).read_text())
    assert {"text", "none"} <= {word for row in record["tables"][0]["rows"] for word in row[0].split(": ")[0].split()}


@needs_alex
@pytest.mark.parametrize("truth", [True, False], ids=["with a ground truth", "without"])
def test_the_replication_runs_on_any_folder(
    truth: bool,
    call: Call,
    tiny_model: Path,
    training_pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime, "SIDES", (16,))  # one: several, and two workers, are in test_experiments.py
    monkeypatch.setattr(write_replication, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(write_replication, "PAGE", tmp_path / "page.md")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / write_replication.MECHANISMS).write_text("")
    pictures = training_pictures
    if not truth:  # low-resolution pictures alone
        degrade_folder(training_pictures, tmp_path / "set", "real_esrgan")
        for path in (tmp_path / "set/hr").iterdir():
            path.unlink()
        (tmp_path / "set/hr").rmdir()
        pictures = tmp_path / "set"
    first, second = commands("replication.md")
    words = shlex.split(first.replace("PICTURES", str(pictures)))
    reduced = ["--model", tiny_model, "--pictures", "1", "--side", "64", "--conditions", "bicubic", "--device", "cpu"]
    answer = call(*words[1:], *reduced, "--metrics", "psnr_y" if truth else "niqe")
    assert answer.code == 0, answer.err
    assert {path.name for path in (tmp_path / "results").iterdir()} == set(CATALOGUE) - {PLUG_IN, ABLATION}
    for name in (PLUG_IN, ABLATION):
        assert f"{name}: left out, since" in answer.err
    assert shlex.split(second)[:2] == ["python", "scripts/write_replication.py"]
    write_replication.collect(tmp_path / shlex.split(second)[2])
    page = write_replication.write()
    assert all(f"\n## {name}\n" in page for name in CATALOGUE)
