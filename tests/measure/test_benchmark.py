"""The benchmark: its counts against formulas, its memory against known allocations, and one whole run."""

import itertools
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from patchscaler.cli.main import main
from patchscaler.errors import ConfigError, PatchScalerError
from patchscaler.imaging.geometry import Size
from patchscaler.measure.flops import count, stages
from patchscaler.measure.speed.machine import describe, matrix_rate
from patchscaler.measure.speed.processes import measure
from patchscaler.measure.speed.settings import ADAPTIVE, BASELINES, RESTORER, UNIFORM, Configuration, parse_size, sweep
from patchscaler.measure.speed.suite import _source, synthetic_picture

# What is measured


@given(*(st.lists(st.integers(1, 50), min_size=1, max_size=3, unique=True) for _ in range(3)), st.booleans())
def test_sweep_has_every_combination_once(sides: list, batches: list, threads: list, baselines: bool) -> None:
    sizes, steps = [Size(side, 2 * side) for side in sides], [(8, 14, 20), (0, 1, 2)]
    listed = sweep(sizes, steps, batches, ["auto"], threads, ["cpu"], baselines=baselines)
    ours = [(c.size, c.steps, c.threads, c.batch_size) for c in listed if c.method == ADAPTIVE]
    assert sorted(ours) == sorted(itertools.product(sizes, steps, threads, batches))
    others = [(c.size, c.method, c.threads, c.batch_size) for c in listed if c.method != ADAPTIVE]
    first = (threads[0], batches[0])
    assert sorted(others) == sorted((size, method, *first) for size in sizes for method in BASELINES if baselines)


def test_baselines_are_the_papers() -> None:
    assert (BASELINES[UNIFORM].steps, BASELINES[UNIFORM].taus) == ((20, 20, 20), (1000, 1000, 1000))
    assert BASELINES[RESTORER].steps == (0, 0, 0)


def test_configuration_survives_json() -> None:
    (configuration,) = sweep([Size(3, 4)], [(1, 2, 3)], [5], ["float32"], [1], ["cpu"], baselines=False)
    assert Configuration.from_dict(json.loads(json.dumps(configuration.as_dict()))) == configuration


@pytest.mark.parametrize(("text", "size"), [("512", Size(512, 512)), ("3x40", Size(3, 40))])
def test_sizes(text: str, size: Size) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "0x5", "5x0", "5x", "-5", "5x5x5", "a"])
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(ConfigError, match="HEIGHTxWIDTH"):
        parse_size(text)


@pytest.mark.parametrize("size", [Size(1, 1), Size(20, 61), Size(100, 50)])
def test_source_has_the_size_asked_for(size: Size, photo: Image.Image, tmp_path: Path) -> None:
    assert synthetic_picture(size).size == (size.width, size.height)
    photo.save(tmp_path / "photo.png")
    with Image.open(_source(tmp_path / "photo.png", size, tmp_path)) as image:
        assert image.size == (size.width, size.height)


# Multiply-adds


def test_counts_equal_the_formulas(tiny_pipeline) -> None:
    """Of the networks in conftest.py, each convolution and product by hand."""
    height, width = 11, 8  # of latents; an input of 21x16
    counted = count(tiny_pipeline.components, Size(2 * height - 1, 2 * width))
    c, conv = 32, 9
    lr, cells = 4 * height * width, height * width
    restorer = lr * conv * (3 * 16 + 4 * 16 * 16) + cells * conv * (12 * c + 64 * (c + 1))
    assert counted["restore"] == restorer
    coarse = conv * (c * 16 + 2 * 16 * 16 + 16 * 64)
    fine = 4 * conv * (2 * 16 * 16 + 16 * 48)
    assert counted["decode"] == cells * (coarse + fine + c * 3 * 64)
    # Patch-DiT: 64 tokens of width 32, 2 blocks; two textures of 16 tokens.
    d, tokens, textures = 32, 64, 32
    products = tokens * d * d * (3 + 1 + 1 + 1 + 4 + 4)
    attention = 2 * tokens * tokens * d + 2 * tokens * textures * d
    ends = tokens * d * ((2 * c + 1) * 4 + c * 4) + 256 * d + d * d + 7 * d * d
    assert counted["denoise"] == 2 * (products + attention) + ends
    classifier = 256 * conv * (c * 16 + 2 * 16 * 16) + 32 * 16
    memory = 16 * 20
    encoder = textures * (c * 16 * d + 2 * d * 2 * d) + 2 * (64 + 64 * 2 * d)
    assert (counted["classify"], counted["retrieve"], counted["encode_texture"]) == (classifier, memory, encoder)
    assert counted["keys"] == 2 * textures * d * 2 * d


def test_counts_equal_those_of_a_real_run(tiny_pipeline) -> None:
    counted = count(tiny_pipeline.components, Size(12, 10))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        latents = tiny_pipeline.restorer(torch.rand(1, 3, 12, 10)).latents
    assert counted["restore"] == counter.get_total_flops() / 2
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tiny_pipeline.parts.grm.fused(torch.rand(1, 3, 12, 10))
    assert counted["second"] == counter.get_total_flops() / 2
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tiny_pipeline.autoencoder.decode(latents)
    assert counted["decode"] == counter.get_total_flops() / 2


def test_counting_leaves_the_pipeline_as_it_was(tiny_pipeline) -> None:
    latents = torch.rand(1, 32, 3, 4)
    before = tiny_pipeline.autoencoder.decode(latents)
    count(tiny_pipeline.components, Size(8, 8))
    assert torch.equal(tiny_pipeline.autoencoder.decode(latents), before)


def test_stages_scale_with_patches_and_steps(tiny_pipeline) -> None:
    counted = count(tiny_pipeline.components, Size(8, 8))
    prompt = sum(counted[name] for name in ("classify", "retrieve", "encode_texture", "keys"))
    assert stages(counted, True, 3, 10)["prompt"] == 3 * prompt
    assert stages(counted, True, 3, 10)["sample"] == 10 * counted["denoise"]
    assert stages(counted, True, 3, 0)["sample"] == 0
    assert stages(counted, False, 3, 0)["restore"] == counted["restore"] + counted["encode"]
    assert [stages(counted, True, 3, 0, asked)["second"] for asked in (False, True)] == [0, counted["second"]]


# Processes and the machine


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="this system tells no peak")
def test_peak_is_the_commands_own() -> None:
    """Neither more nor less than it allocates, although this process holds torch."""
    small = measure([sys.executable, "-I", "-S", "-c", "pass"])
    large = measure([sys.executable, "-I", "-S", "-c", "block = b'x' * (150 * 2**20)"])
    assert small.peak_mib < 60
    assert large.peak_mib - small.peak_mib == pytest.approx(150, abs=15)


def test_measured_time_and_output() -> None:
    outcome = measure([sys.executable, "-S", "-c", "import time; time.sleep(0.3); print(input())"], stdin="hello\n")
    assert outcome.output == "hello\n"
    assert outcome.seconds >= 0.3


def test_threads_reach_the_command() -> None:
    code = "import os; print(os.environ['OMP_NUM_THREADS'])"
    assert measure([sys.executable, "-S", "-c", code], threads=3).output == "3\n"


def test_failing_commands_say_why() -> None:
    with pytest.raises(PatchScalerError, match=r"code 7 .*too hot"):
        measure([sys.executable, "-S", "-c", "import sys; print('too hot', file=sys.stderr); sys.exit(7)"])
    with pytest.raises(PatchScalerError, match="no-such-program"):
        measure(["./no-such-program"])


def test_machine() -> None:
    described = describe()
    assert described["processor"]
    assert 1 <= described["cores"] <= os.cpu_count()
    assert described["torch"] == torch.__version__
    # Any processor in use lies between; 10 G to 10 T for whole machines.
    assert 1e8 < matrix_rate("cpu", torch.float32, repeats=1) < 1e14


# The command


@pytest.mark.slow
def test_whole_run(
    tiny_pipeline, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Ours in a process of its own, a peer that copies, and one that is not there: it costs its own line."""
    copy = f"copy={sys.executable} -S -c 'import shutil, sys; shutil.copy(*sys.argv[1:])' {{input}} {{output}}"
    arguments = ["--size", "17x20", "--steps", "1,2,3", "--no-baselines", "--model", str(tiny_model), "--threads", "1"]
    arguments += ["--repeats", "2", "--warm-up", "0", "--device", "cpu", "--dtype", "float32"]
    arguments += ["--peer", copy, "--peer", "gone=./gone {input} {output}"]
    arguments += ["-o", str(tmp_path / "report.json"), "--plot", str(tmp_path / "plot.png")]
    monkeypatch.setattr(sys, "argv", ["patchscaler", "benchmark", *arguments])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == 1
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())

    (entry,) = report["configurations"]
    took = entry["stages"]
    assert list(took) == ["start-up", "read", "restore", "second", "prompt", "sample", "decode", "colour", "write"]
    assert all(0 <= stage["least_seconds"] <= stage["seconds"] for stage in took.values())
    assert entry["output_size"] == [68, 80]
    counted, patches = count(tiny_pipeline.components, Size(17, 20)), sum(entry["patches"].values())
    wanted = stages(counted, True, patches, entry["patch_steps"], entry["asked"])
    (rate,) = report["rates"].values()
    for name, amount in wanted.items():
        assert took[name]["multiply_adds"] == amount
        assert took[name]["percent_of_peak"] == pytest.approx(100 * amount / took[name]["seconds"] / rate)
    peaks = [stage["peak_mib"] for name, stage in took.items() if name != "start-up"]
    assert all(before <= after + 0.1 for before, after in itertools.pairwise(peaks))  # the report rounds
    assert entry["peak_mib"] >= peaks[-1] > 50

    ours, copied, gone = report["processes"]
    assert ours["name"] == "patchscaler, adaptive"
    assert ours["seconds"] > copied["seconds"] > 0
    assert ours["peak_mib"] > copied["peak_mib"] > 0
    assert "gone" in gone["error"]
    for text in (report["machine"]["processor"], "G multiply-adds", "start-up", "copy", "gone"):
        assert text in printed
    with Image.open(tmp_path / "plot.png") as plot:
        assert plot.width > 500


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--size", "big"), "size 'big'"),
        (("--steps", "3,2,1"), "--steps 3,2,1"),
        (("--dtype", "int8"), "--dtype int8"),
        (("--device", "abacus"), "--device abacus"),
        (("--peer", "x"), 'peer "x=x": a folder of results has no time'),
        (("-o", "nowhere/r.json"), "-o nowhere/r.json"),
        (("--plot", "plot.xyz"), "plot plot.xyz"),
    ],
)
def test_wrong_call(
    arguments: tuple[str, ...], reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["patchscaler", "benchmark", *arguments])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == 2
    assert capsys.readouterr().err.startswith(f"patchscaler: {reason}")
