"""Evaluation: pairing, measuring, groups, bars and requests."""

import math
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from command_files import draw
from patchscaler.errors import ConfigError, DataError, ImageReadError, WeightsError
from patchscaler.imaging.files import read_picture, write_picture
from patchscaler.measure.intervals import difference
from patchscaler.measure.pairing import check_sizes, pair_results, picture_size, pictures_by_stem
from patchscaler.measure.peers import Peer
from patchscaler.measure.quality.bars import Bar, judge
from patchscaler.measure.quality.evaluate import Request
from patchscaler.measure.quality.measure import GAIN, box_means, group_figures, measure
from patchscaler.measure.rows import Patches, Row, Section
from patchscaler.metrics.choice import Metric, choose_metrics, load_metrics
from patchscaler.metrics.fidelity import psnr_y
from patchscaler.metrics.lpips import load_lpips
from patchscaler.metrics.pyiqa_metrics import PYIQA_METRICS

# Pairing


@settings(max_examples=100)
@given(
    stems=st.sets(
        st.text("ab_-.1", min_size=1, max_size=6).filter(lambda s: s.strip(".") == s), min_size=1, max_size=6
    ),
    ending=st.sampled_from(["", "_x4", "-out", ".final"]),
)
def test_each_result_finds_its_reference(
    stems: set[str], ending: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Even where one stem begins another, as long as no ending makes one stem out of another."""
    if any(stem + ending in stems for stem in stems if ending):
        return
    folder = tmp_path_factory.mktemp("pairs")
    for stem in stems:
        (folder / f"{stem}{ending}.png").touch()
    paired = pair_results(folder, {stem: Path(stem) for stem in stems})
    assert paired == {stem: folder / f"{stem}{ending}.png" for stem in stems}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["a.png"], "1 of 2 pictures are missing, the first is b"),
        (["a.png", "b.png", "c.png"], "c.png: belongs to no reference"),
        (["a.png", "a_x4.png", "b.png"], "belongs to a too"),
        (["a.png", "a.jpg", "b.png"], "has the same stem"),
        (["ab.png", "b.png"], "missing, the first is a"),
    ],
)
def test_results_that_do_not_pair_are_named(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        draw(tmp_path / name)
    with pytest.raises(DataError, match=message):
        pair_results(tmp_path, {"a": Path("a"), "b": Path("b")})


def test_no_folder_and_no_pictures_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImageReadError, match="no pictures"):
        pictures_by_stem(tmp_path)
    with pytest.raises(ImageReadError, match="no such file"):
        pair_results(tmp_path / "absent", {})


def test_sizes_are_compared_upright(tmp_path: Path) -> None:
    reference = draw(tmp_path / "hr" / "a.png", 24, 20)
    turned = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (24, 20)).save(turned, exif=exif)
    assert picture_size(turned) == read_picture(turned).size == (24, 20)
    check_sizes({"a": turned}, {"a": reference})
    small = draw(tmp_path / "small" / "a.png", 6, 5)
    with pytest.raises(DataError, match=r"small/a\.png: 6x5, but .*hr/a\.png is 24x20"):
        check_sizes({"a": small}, {"a": reference})


# Measuring


def psnr_metric() -> Metric:
    return load_metrics(["psnr_y"], set(), shave=4, folder=None, device="cpu")[0][0]


def test_measured_values_are_the_metrics_own(tmp_path: Path) -> None:
    references = {name: draw(tmp_path / "hr" / f"{name}.png", seed=n) for n, name in enumerate("ab")}
    results = {name: draw(tmp_path / "sr" / f"{name}.png", seed=n + 5) for n, name in enumerate("ab")}
    rows = [Row("one", results), Row("truth", references)]
    section = Section(None, "one", references, rows=rows)
    measure([section], [psnr_metric()])
    for name in "ab":
        wanted = psnr_y(*(torch.from_numpy(read_picture(each[name]).pixels) for each in (results, references)))
        assert rows[0].values["psnr_y"][name] == wanted
    assert rows[1].mean("psnr_y") == math.inf
    assert rows[0].mean("psnr_y") == pytest.approx(sum(rows[0].values["psnr_y"].values()) / 2)


def test_a_metric_that_cannot_be_taken_leaves_a_picture_out(tmp_path: Path, features: Path) -> None:
    """Eight pixels are too few for LPIPS: the mean is over the others, and says over how many."""
    references = {"big": draw(tmp_path / "hr" / "big.png", 40, 40), "small": draw(tmp_path / "hr" / "small.png", 8, 8)}
    results = {name: draw(tmp_path / "sr" / f"{name}.png", *picture_size(references[name]), 9) for name in references}
    row = Row("row", results)
    metrics, _ = load_metrics(["lpips_alex", "ssim_y"], set(), shave=4, folder=features, device="cpu")
    measure([Section(None, "row", references, rows=[row])], metrics)
    for metric in metrics:
        assert math.isnan(row.values[metric.name]["small"])
        assert row.counted(metric.name) == 1
        assert row.mean(metric.name) == row.values[metric.name]["big"]
        assert metric.best([math.nan, row.mean(metric.name)]) == row.mean(metric.name)


@settings(max_examples=30)
@given(height=st.integers(4, 20), width=st.integers(4, 20), seed=st.integers(0, 999))
def test_means_of_boxes_that_tile_a_plane_make_its_mean(height: int, width: int, seed: int) -> None:
    plane = torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(seed))
    half = height // 2
    boxes = [(0, 0, half, width), (half, 0, height - half, width)]
    top, bottom = box_means(plane, boxes)
    assert (top * half + bottom * (height - half)) / height == pytest.approx(float(plane.mean()), abs=1e-6)


def test_the_group_that_changed_gains(tmp_path: Path, features: Path) -> None:
    truth = draw(tmp_path / "hr" / "a.png", 128, 256)
    pixels = read_picture(truth).pixels
    before, after = 1 - pixels, 1 - pixels
    after[..., 128:] = pixels[..., 128:]
    files = {}
    for name, picture in (("before", before), ("after", after)):
        files[name] = tmp_path / name / "a.png"
        files[name].parent.mkdir()
        write_picture(files[name], picture)
    patches = Patches(["simple", "medium", "hard"], [0, 2], [(0, 0, 128, 128), (0, 128, 128, 128)])
    rows = [Row(name, {"a": path}) for name, path in files.items()]
    figures = group_figures({"a": patches}, {"a": truth}, *rows, load_lpips("alex", features))
    assert [figures[name]["patches"] for name in ("simple", "medium", "hard")] == [1, 0, 1]
    assert figures["hard"]["share"] == 0.5
    assert math.isnan(figures["medium"][GAIN])
    assert figures["hard"][GAIN] > 5 * abs(figures["simple"][GAIN])
    assert figures["hard"][GAIN] == figures["hard"]["before"] - figures["hard"]["after"]


# Metrics by name


def test_names_and_groups_of_metrics() -> None:
    assert choose_metrics("default", True)[0] == ["psnr_y", "ssim_y", "lpips_alex", "niqe"]
    assert choose_metrics("default", False)[0] == ["niqe"]
    assert choose_metrics("dists, default", True)[0][0] == "dists"
    assert choose_metrics("blind", True) == choose_metrics("all", False)
    assert choose_metrics("all", False) == (["niqe", *PYIQA_METRICS], set())
    assert choose_metrics("niqe,psnr_y", True)[1] == {"niqe", "psnr_y"}
    for names, reference in (("sharpness", True), ("psnr_y", False), (",", True)):
        with pytest.raises(ConfigError, match="--metrics"):
            choose_metrics(names, reference)


def test_what_cannot_be_had_is_left_out_with_a_word_or_refused(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    names = ["niqe", "lpips_alex", *PYIQA_METRICS]
    metrics, missing = load_metrics(names, set(), shave=4, folder=tmp_path, device="cpu")
    assert [metric.name for metric in metrics] == ["niqe"]
    assert set(missing) == {"lpips_alex", *PYIQA_METRICS}
    assert "patchscaler[eval]" in missing["maniqa_pipal"]
    assert str(tmp_path) in missing["lpips_alex"]
    with pytest.raises(WeightsError, match="musiq needs the extra"):
        load_metrics(names, {"musiq"}, shave=4, folder=tmp_path, device="cpu")


def test_labels_name_the_weights(features: Path) -> None:
    names = ["psnr_y", "lpips_alex", "niqe"]
    labels = [m.label for m in load_metrics(names, set(), shave=6, folder=features, device="cpu")[0]]
    assert labels == [
        "psnr_y (BT.601 luma, border 6)",
        "lpips_alex (lpips 0.1, alexnet-owt-7be5be79.pth)",
        "niqe (basicsr 1.4.2, luma)",
    ]


# Bars


def metric(name: str, better: str) -> Metric:
    return Metric(name, name, better, 3, True, lambda truth: lambda picture: 0.0)  # type: ignore[arg-type]


def section(condition: str = "mild", groups: dict[str, float] | None = None, **rows: list[float]) -> Section:
    made = [
        Row(name, {str(n): Path() for n, _ in enumerate(values)}, {"m": {str(n): v for n, v in enumerate(values)}})
        for name, values in rows.items()
    ]
    found = Section(condition, "ours", rows=made)
    found.groups = {name: {GAIN: value} for name, value in (groups or {}).items()}
    return found


@settings(max_examples=60)
@given(
    ours=st.floats(0.1, 10),
    theirs=st.floats(0.1, 10),
    factor=st.floats(0.5, 1.5),
    offset=st.floats(-1, 1),
    better=st.sampled_from(["lower", "higher"]),
)
def test_a_bar_holds_exactly_where_its_inequality_does(
    ours: float, theirs: float, factor: float, offset: float, better: str
) -> None:
    bar = Bar("m", "ours", ["theirs"], factor=factor, offset=offset)
    (outcome,) = judge({"claim": bar}, [section(ours=[ours], theirs=[theirs])], [metric("m", better)], None)
    needed = factor * theirs + offset
    assert outcome.holds == (ours <= needed if better == "lower" else ours >= needed)
    assert outcome.standard == needed


def test_the_best_rival_counts_and_strict_means_better() -> None:
    rows = section(ours=[2.0, 4.0], first=[3.0, 3.0], second=[9.0, 9.0])
    for better, wanted in (("lower", True), ("higher", False)):
        bars = {"claim": Bar("m", "ours", ["first", "second"]), "strict": Bar("m", "ours", ["first"], strict=True)}
        plain, strict = judge(bars, [rows], [metric("m", better)], None)
        assert plain.holds is wanted
        assert strict.holds is False
    assert strict.excess == difference([2.0, 4.0], [3.0, 3.0])
    assert strict.excess.value == 0


def test_bars_on_groups_weights_and_conditions() -> None:
    sections = [
        section("bicubic", {"hard": 0.3, "simple": 0.1}, ours=[1.0]),
        section("mild", {"hard": 0.3}, ours=[1.0]),
    ]
    bars = {
        "hard": Bar(GAIN, "hard", ["simple"], strict=True),
        "weights": Bar("weights_mb", limit=64.0),
        "mild": Bar("m", "ours", limit=0.5, conditions=["mild"]),
        "absent": Bar("m", "ours", ["theirs"], conditions=["mild"]),
        "unmeasured": Bar("n", "ours", limit=0.5, conditions=["mild"]),
    }
    metrics = [metric("m", "lower"), metric("lpips_alex", "lower")]
    found = [(o.claim, o.condition, o.holds) for o in judge(bars, sections, metrics, 42.8)]
    assert found == [
        ("hard", "bicubic", True),
        ("hard", "mild", None),
        ("weights", None, True),
        ("mild", "mild", False),
        ("absent", "mild", None),
        ("unmeasured", "mild", None),
    ]
    assert judge({"weights": bars["weights"]}, sections, metrics, 64.1)[0].holds is False
    assert judge({"weights": bars["weights"]}, sections, metrics, None)[0].holds is None


@pytest.mark.parametrize("settings", [{}, {"against": ["a"], "limit": 1.0}])
def test_a_bar_needs_one_standard(settings: dict) -> None:
    with pytest.raises(ConfigError, match="rows to stand against or a limit"):
        Bar("m", **settings)


# Requests


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to evaluate"),
        ({"conditions": ("foggy",), "reference": Path("hr")}, '"foggy" is unknown'),
        ({"conditions": ("mild",)}, "go without --input"),
        (
            {"conditions": ("mild",), "reference": Path("hr"), "inputs": Path("lr"), "model": "tiny"},
            "go without --input",
        ),
        ({"model": "tiny"}, "--model needs pictures"),
        ({"inputs": Path("lr")}, "name a --model or a --peer"),
        ({"peers": (Peer("a", "{condition}/a"),)}, "goes with --conditions"),
        ({"peers": (Peer("PatchScaler", "a"),), "model": "tiny", "inputs": Path("lr")}, "is a row of its own"),
        ({"peers": (Peer("hr", "a"),), "reference": Path("hr")}, "name it otherwise"),
        ({"peers": (Peer("a", "a.pth"),), "reference": Path("hr")}, "peers that are run need pictures"),
        (
            {"peers": (Peer("a", "a"),), "conditions": ("mild", "bicubic"), "reference": Path("hr")},
            "several conditions need it",
        ),
    ],
)
def test_a_request_that_contradicts_itself_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Request(**options)
