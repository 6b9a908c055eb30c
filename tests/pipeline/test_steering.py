"""Quality presets, thresholds, start times and a budget of seconds: which steps a call gets."""

import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from patchscaler import PatchScalerPipeline
from patchscaler.engines.torch import default_dtype
from patchscaler.errors import ConfigError
from patchscaler.options import DEFAULT_QUALITY, LADDER, QUALITIES, TAUS, Options
from patchscaler.stages.budget import Speed, sampling_seconds, steps_within

counts = st.lists(st.integers(0, 400), min_size=3, max_size=3)
seconds = st.floats(0, 1000)
speeds = st.builds(Speed, st.floats(0, 1), st.floats(1e-3, 1), st.floats(0, 1))


def test_presets_rise() -> None:
    fast, balanced, best = (QUALITIES[name] for name in ("fast", "balanced", "best"))
    assert all(a <= b <= c for a, b, c in zip(fast, balanced, best, strict=True))
    assert best == LADDER[-1]  # no budget asks for more
    assert Options().groups.steps == QUALITIES[DEFAULT_QUALITY]


def test_every_rung_is_a_setting_and_none_is_cheaper_than_the_one_before() -> None:
    for lower, higher in pairwise(LADDER):
        assert all(a <= b for a, b in zip(lower, higher, strict=True))
        assert lower != higher
        Options(steps=higher)


@pytest.mark.parametrize("name", QUALITIES)
def test_a_preset_is_its_steps(tiny_pipeline: PatchScalerPipeline, photo: Image.Image, name: str) -> None:
    by_name = tiny_pipeline(photo, quality=name, output_type="pt")
    denoise = Options(quality=name).denoise_level
    by_steps = tiny_pipeline(photo, steps=QUALITIES[name], denoise=denoise, output_type="pt")
    assert torch.equal(by_name.images, by_steps.images)
    assert (denoise == 0) is (name == "fast")
    assert tuple(by_name.report.steps.values()) == QUALITIES[name]


@pytest.mark.parametrize(
    ("ways", "words"),
    [
        (("fast", (1, 1, 1), None), "quality and steps"),
        (("fast", None, 3.0), "quality and budget"),
        ((None, (1, 1, 1), 3.0), "steps and budget"),
        (("great", None, None), 'quality "great"'),
    ],
)
def test_one_way_to_choose_the_steps(ways: tuple, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Options(**dict(zip(("quality", "steps", "budget"), ways, strict=True)))


@pytest.mark.parametrize("budget", [0.0, -1.0, float("nan")])
def test_impossible_budgets(budget: float) -> None:
    with pytest.raises(ConfigError, match="budget"):
        Options(budget=budget)


def test_a_preset_never_exceeds_its_start_times() -> None:
    assert Options(quality="best", taus=(1, 3, 5)).groups.steps == (0, 3, 5)


@given(seconds=seconds, counts=counts, speed=speeds)
def test_a_budget_is_kept_and_used(seconds: float, counts: list[int], speed: Speed) -> None:
    chosen = steps_within(seconds, counts, speed, TAUS)
    cost = sampling_seconds(chosen, counts, speed)
    assert cost <= seconds
    better = [rung for rung in LADDER if rung > chosen]
    assert not better or sampling_seconds(better[0], counts, speed) > seconds


@given(seconds=seconds, counts=counts, speed=speeds)
def test_two_workers_do_no_less(seconds: float, counts: list[int], speed: Speed) -> None:
    assert steps_within(seconds, counts, speed, TAUS, workers=2) >= steps_within(seconds, counts, speed, TAUS)


def test_budgets_of_a_real_run(tiny_pipeline: PatchScalerPipeline, photo: Image.Image) -> None:
    hurried = tiny_pipeline(photo, budget=1e-3, output_type="pt")
    assert tuple(hurried.report.steps.values()) == (0, 0, 0)
    patient = tiny_pipeline(photo, budget=600.0, gammas=(0.96, 0.9545), output_type="pt")
    assert tuple(patient.report.steps.values()) == LADDER[-1]
    assert patient.report.budget["sampling"] <= patient.report.budget["left"] <= 600
    again = tiny_pipeline(photo, steps=LADDER[-1], gammas=(0.96, 0.9545), output_type="pt")
    assert torch.equal(again.images, patient.images)


def test_patches_without_steps_are_neither_prompted_nor_sampled(
    tiny_pipeline: PatchScalerPipeline, photo: Image.Image
) -> None:
    seen = []
    report = tiny_pipeline(photo, gammas=(0.96, 0.9545), steps=(0, 0, 2), on_progress=seen.append).report
    hard = report.patches["hard"]
    assert 0 < hard < sum(report.patches.values())
    assert {p.total for p in seen if p.stage == "prompt"} == {hard}
    assert report.patch_steps == 2 * hard


def test_the_options_of_the_command(
    tiny_model: Path, tmp_path: Path, photo: Image.Image, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """--gammas, --taus, --quality and --budget do what the arguments of the pipeline do."""
    from patchscaler.cli.main import main

    photo.save(tmp_path / "p.png")
    pipeline = PatchScalerPipeline.from_pretrained(tiny_model, dtype=default_dtype("cpu"))

    def run(*options: str) -> str:
        command = ["patchscaler", "upscale", str(tmp_path / "p.png"), "--model", str(tiny_model), *options]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as leaving:
            main()
        assert not leaving.value.code
        return capsys.readouterr().out

    def same(**arguments: object) -> bool:
        with Image.open(tmp_path / "p_x4.png") as found:
            return found.tobytes() == pipeline(photo, **arguments).images[0].tobytes()

    run("--gammas", "0.96,0.9545", "--taus", "100,300,900", "--quality", "fast")
    assert same(gammas=(0.96, 0.9545), taus=(100, 300, 900), quality="fast")
    assert not same(gammas=(0.96, 0.9545), quality="fast")
    assert "steps 0,4,8 for 900 s" in run("--budget", "900")
    assert same(quality="best")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--quality", "great"), '--quality great: quality "great"'),
        (("--quality", "fast", "--steps", "1,1,1"), "quality and steps both choose"),
        (("--budget", "-3"), "--budget -3.0: budget"),
        (("--gammas", "0.5"), "--gammas 0.5: give two numbers"),
        (("--gammas", "0.5,0.9"), "--gammas 0.5,0.9: gammas"),
        (("--taus", "1,2,x"), "--taus 1,2,x: give three whole numbers"),
    ],
)
def test_wrong_options(
    tmp_path: Path, photo: Image.Image, monkeypatch: pytest.MonkeyPatch, capsys, options: tuple[str, ...], words: str
) -> None:
    from patchscaler.cli.main import main

    photo.save(tmp_path / "p.png")
    monkeypatch.setattr(sys, "argv", ["patchscaler", "upscale", str(tmp_path / "p.png"), *options])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == 2
    assert words in capsys.readouterr().err
