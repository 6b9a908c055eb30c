"""`patchscaler evaluate`: whole reports of folders and of real (tiny, untrained) networks."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from command_files import Call, draw
from patchscaler import PatchScalerPipeline
from patchscaler.data.pairs import CONDITIONS, validation_pairs
from patchscaler.engines.torch import default_dtype
from patchscaler.imaging.files import read_picture
from patchscaler.measure.pairing import picture_size
from patchscaler.metrics.fidelity import psnr_y


@pytest.fixture
def evaluate(call: Call, features: Path) -> Callable:
    return lambda *arguments: call(
        "evaluate", *arguments, "--features", features, "--device", "cpu", "--json", "r.json"
    )


def read_json(path: Path = Path("r.json")) -> dict:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_folders_against_ground_truth(evaluate, tmp_path: Path) -> None:
    for n, name in enumerate(("a", "b")):
        draw(tmp_path / "hr" / f"{name}.png", 40, 44, n)
        draw(tmp_path / "far" / f"{name}_x4.png", 40, 44, n + 7)
        Image.open(tmp_path / "hr" / f"{name}.png").save(tmp_path / "hr" / f"{name}.png")
        (tmp_path / "same").mkdir(exist_ok=True)
        Image.open(tmp_path / "hr" / f"{name}.png").save(tmp_path / "same" / f"{name}.png")
    answer = evaluate("--ref", "hr", "--out", "far", "--out", "equal=same", "--html", "r.html")
    assert answer.code == 0, answer.err
    report = read_json()
    (condition,) = report["conditions"]
    assert [row["name"] for row in condition["rows"]] == ["far", "equal"]
    far, equal = (row["means"] for row in condition["rows"])
    psnr, lpips = (report["metrics"][name]["label"] for name in ("psnr_y", "lpips_alex"))
    assert equal[psnr] is None  # infinite
    assert equal[lpips] == 0
    assert far[lpips] > 0
    assert far[report["metrics"]["niqe"]["label"]] is None  # no two blocks
    assert "lpips 0.1, alexnet" in lpips
    assert "equal" in answer.out
    page = (tmp_path / "r.html").read_text()
    assert page.count("data:image/webp;base64,") == 2 * 3
    assert "http" not in page.replace("http-equiv", "")
    assert "prefers-color-scheme: dark" in page


def test_without_ground_truth(evaluate, tmp_path: Path) -> None:
    draw(tmp_path / "sr" / "a.png", 100, 200)
    draw(tmp_path / "other" / "a.png", 100, 200, 1)
    answer = evaluate("--out", "sr", "--out", "other", "--html", "r.html")
    assert answer.code == 0, answer.err
    assert list(read_json()["metrics"]) == ["niqe"]
    assert (tmp_path / "r.html").read_text().count("data:image/webp") == 2


BARS = """
["PSNR of the model is at least the restorer's"]
metric = "psnr_y"
against = ["restorer alone"]

["weights are tiny"]
metric = "weights_mb"
limit = 64.0
"""


def test_a_model_under_two_conditions(evaluate, tmp_path: Path, tiny_model: Path, training_pictures: Path) -> None:
    conditions = ("bicubic", "real_esrgan")
    (tmp_path / "bars.toml").write_text(BARS)
    for condition in conditions:  # a peer that turns everything grey, the crop to multiples of 16 done by itself
        for path in training_pictures.iterdir():
            height, width = (side // 16 * 16 for side in picture_size(path))
            (tmp_path / "peer" / condition).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (width, height), (128, 128, 128)).save(tmp_path / "peer" / condition / path.name)
    arguments = ["--ref", training_pictures, "--model", tiny_model, "--conditions", ",".join(conditions)]
    arguments += ["--out", "peer=peer/{condition}", "--steps", "1,1,2", "--steps", "0,0,1", "--no-texture"]
    answer = evaluate(*arguments, "--bars", "bars.toml", "--save", "kept", "--html", "r.html")
    report = read_json()
    holds = [bar["holds"] for bar in report["bars"]]
    assert len(holds) == 3  # the weights have no conditions
    assert answer.code == (0 if all(holds) else 1), answer.err
    names = ["bicubic", "autoencoder (ceiling)", "restorer alone", "PatchScaler", "PatchScaler, no texture"]
    for condition, section in zip(conditions, report["conditions"], strict=True):
        assert section["condition"] == condition
        assert [row["name"] for row in section["rows"]] == [*names, "PatchScaler 0,0,1", "peer"]
        assert sum(group["patches"] for group in section["groups"].values()) > 0
    assert report["model"]["weights_mb"] > 0

    # The inputs are those that training validates on, and the results those of the pipeline, rounded.
    pipeline = PatchScalerPipeline.from_pretrained(tiny_model, dtype=default_dtype("cpu"))
    for condition in conditions:
        pairs = validation_pairs(str(training_pictures), 0, condition)
        for path, pair in zip(sorted(training_pictures.iterdir()), pairs, strict=True):
            assert np.array_equal(read_picture(tmp_path / "kept" / "hr" / path.name).pixels, pair["hr"])
            assert np.array_equal(read_picture(tmp_path / "kept" / condition / "lr" / path.name).pixels, pair["lr"])
        wanted = pipeline(pair["lr"], output_type="pt", steps=(1, 1, 2)).images
        kept = torch.from_numpy(read_picture(tmp_path / "kept" / condition / "patchscaler" / path.name).pixels)
        assert (kept - wanted).abs().max() <= 0.5 / 255 + 1e-6
        means = report["conditions"][conditions.index(condition)]["rows"][3]["pictures"]
        assert means[path.stem]["psnr_y"] == pytest.approx(psnr_y(kept, pair["hr"]), abs=1e-5)


def test_a_model_on_pictures_as_they_are(evaluate, tmp_path: Path, tiny_model: Path) -> None:
    draw(tmp_path / "lr" / "a.png", 9, 11)
    arguments = ["--model", tiny_model, "--input", "lr", "--steps", "1,1,1"]
    assert evaluate(*arguments, "--metrics", "niqe").code == 0
    assert [row["name"] for row in read_json()["conditions"][0]["rows"]] == ["bicubic", "restorer alone", "PatchScaler"]
    draw(tmp_path / "hr" / "a.png", 36, 44)
    answer = evaluate(*arguments, "--ref", "hr")
    assert answer.code == 0, answer.err
    assert "autoencoder (ceiling)" in answer.out
    draw(tmp_path / "hr" / "a.png", 36, 48)
    answer = evaluate(*arguments, "--ref", "hr")
    assert answer.code == 1
    assert "doesn't give the 36x48" in answer.err


def test_count_takes_the_first_pictures(evaluate, tmp_path: Path) -> None:
    for n, name in enumerate("abc"):
        draw(tmp_path / "hr" / f"{name}.png", 24, 24, n)
        draw(tmp_path / "sr" / f"{name}.png", 24, 24, n + 3)
    assert evaluate("--ref", "hr", "--out", "sr", "--metrics", "psnr_y", "--count", 2).code == 0
    assert list(read_json()["conditions"][0]["rows"][0]["pictures"]) == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--out", "a=sr", "--out", "a=other"], 2, "name a is taken"),
        (["--out", "=sr"], 2, "give NAME=FOLDER"),
        (["--peer", "a=up {input}"], 2, "the command has no {output}"),
        (["--peer", "a=net.pth"], 2, "peers that are run need pictures"),
        (["--out", "absent"], 1, "absent: no such file"),
        (["--out", "sr", "--html", "absent/r.html"], 1, "create it first"),
        (["--out", "sr", "--bars", "bars.toml"], 2, "unknown key"),
        (["--out", "sr", "--metrics", "lpips_alex"], 2, "--ref"),
        (["--model", "absent", "--input", "sr"], 1, "absent: no such model folder"),
    ],
)
def test_wrong_calls(evaluate, tmp_path: Path, arguments: list, code: int, message: str) -> None:
    draw(tmp_path / "sr" / "a.png")
    (tmp_path / "bars.toml").write_text('["x"]\nmetric = "niqe"\nwidth = 3\n')
    answer = evaluate(*arguments)
    assert answer.code == code
    assert message in answer.err
    assert answer.err.count("\n") == 1


def test_the_bars_of_the_bundled_model_are_read() -> None:
    from patchscaler.cli.evaluate import _read_bars

    bars = _read_bars(Path(__file__).parents[2] / "configs" / "bars.toml")
    assert len(bars) == 8
    assert all(set(bar.conditions) <= set(CONDITIONS) for bar in bars.values())
