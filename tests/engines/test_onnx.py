"""The ONNX export: its runner gives the pipeline's pictures, knows no torch, and its numpy twins do what torch does."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from patchscaler.cli.export import export_onnx
from patchscaler.errors import ConfigError, WeightsError
from patchscaler.imaging import colour, resize, tiles
from patchscaler.imaging.geometry import Size
from patchscaler.onnx import arrays
from patchscaler.onnx.export import _check, _store_as_half
from patchscaler.onnx.runner import SETTINGS, OnnxUpscaler
from patchscaler.pgs.groups import GroupConfig, plan
from patchscaler.pgs.sampling import Sampling
from patchscaler.pgs.schedule import make_scheduler

SIZES = [(1, 1), (2, 3), (5, 4), (16, 16), (17, 33), (31, 8), (1, 40), (40, 1), (24, 37), (45, 61)]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """What `patchscaler export onnx` makes of the tests' networks."""
    folder = tmp_path_factory.mktemp("onnx") / "model"
    export_onnx(folder, str(tiny_model))
    return folder


@pytest.fixture(scope="session")
def upscaler(exported: Path) -> OnnxUpscaler:
    return OnnxUpscaler(exported, threads=1)


def random_array(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


# The whole way


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_runner_agrees_with_the_pipeline(upscaler: OnnxUpscaler, tiny_pipeline, size: tuple[int, int]) -> None:
    image = np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), np.uint8)
    options = {"steps": (1, 2, 3), "seed": 7, "batch_size": 5}
    wanted = tiny_pipeline(image, output_type="np", **options).images[0]
    result = upscaler(image, **options)
    assert result.shape == (4 * size[0], 4 * size[1], 3)
    np.testing.assert_allclose(result, wanted, atol=0.1 / 255)  # ten times closer than has to be


def test_batch_size_and_number_type_change_nothing(upscaler: OnnxUpscaler) -> None:
    image = np.random.default_rng(1).integers(0, 256, (40, 33, 3), np.uint8)
    wanted = upscaler(image, steps=(1, 1, 2))
    np.testing.assert_allclose(upscaler(image, steps=(1, 1, 2), batch_size=1), wanted, atol=1e-5)
    np.testing.assert_allclose(upscaler(image / 255, steps=(1, 1, 2)), wanted, atol=1e-5)
    assert not np.allclose(upscaler(image, steps=(1, 1, 2), seed=1), wanted, atol=1e-3)


@pytest.mark.parametrize(("network", "entry", "exit"), [("restorer", 2, 1), ("decoder", 1, 8)])
def test_tiles_equal_the_whole(upscaler: OnnxUpscaler, network: str, entry: int, exit: int) -> None:
    name = upscaler.sessions[network].get_inputs()[0].name
    channels = upscaler.sessions[network].get_inputs()[0].shape[1]
    array = random_array(channels, 33 * entry, 21 * entry)

    def run(crop: np.ndarray) -> list[np.ndarray]:
        return upscaler.sessions[network].run(None, {name: crop})

    reach = upscaler.settings[f"{network}_reach"]
    parts = arrays.in_tiles(run, array, 8, reach, entry, exit)
    for part, whole in zip(parts, run(array[None]), strict=True):
        np.testing.assert_allclose(part, whole[0], atol=1e-5)


def test_runner_loads_no_torch(exported: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['diffusers'] = None\n"
        "import numpy\n"
        "from patchscaler.onnx.runner import OnnxUpscaler\n"
        f"result = OnnxUpscaler({str(exported)!r})(numpy.zeros((3, 2, 3), numpy.uint8), steps=(1, 1, 1))\n"
        "print(result.shape)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "(12, 8, 3)\n"


# The files


def test_times_are_int64_and_sizes_free(upscaler: OnnxUpscaler, exported: Path) -> None:
    inputs = {entry.name: entry for entry in upscaler.sessions["patch_dit"].get_inputs()}
    assert inputs["t"].type == "tensor(int64)"
    assert all(isinstance(entry.shape[0], str) for entry in inputs.values())
    for network in ("restorer", "decoder"):
        assert all(isinstance(side, str) for side in upscaler.sessions[network].get_inputs()[0].shape[2:])
    for path in exported.glob("*.onnx"):
        assert all(entry.version >= 17 for entry in onnx.load(path).opset_import if not entry.domain)


def test_half_precision_is_stored_where_it_is_exact() -> None:
    exact, inexact = random_array(8, 16).astype(np.float16).astype(np.float32), random_array(16, 8, seed=1)
    nodes = [helper.make_node("MatMul", ["x", "a"], ["y"]), helper.make_node("MatMul", ["y", "b"], ["z"])]
    x, z = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 8]) for name in "xz")
    weights = [numpy_helper.from_array(exact, "a"), numpy_helper.from_array(inexact, "b")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [z], weights), opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    )
    given_input = {"x": random_array(2, 8, seed=2)}
    before = onnxruntime.InferenceSession(model.SerializeToString()).run(None, given_input)[0]
    _store_as_half(model)
    assert [weight.data_type for weight in model.graph.initializer] == [TensorProto.FLOAT16, TensorProto.FLOAT]
    after = onnxruntime.InferenceSession(model.SerializeToString()).run(None, given_input)[0]
    np.testing.assert_array_equal(after, before)


# Errors


def test_what_is_no_picture(upscaler: OnnxUpscaler) -> None:
    for shape in ((3, 4), (3, 4, 4), (0, 4, 3)):
        with pytest.raises(ConfigError, match="no picture"):
            upscaler(np.zeros(shape, np.uint8))


def test_what_is_no_export(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="export onnx"):
        OnnxUpscaler(tmp_path)
    shutil.copy(exported / SETTINGS, tmp_path)
    with pytest.raises(WeightsError, match=r"restorer\.onnx"):
        OnnxUpscaler(tmp_path)
    settings = json.loads((exported / SETTINGS).read_text()) | {"format_version": 99}
    (tmp_path / SETTINGS).write_text(json.dumps(settings))
    with pytest.raises(WeightsError, match="version 99"):
        OnnxUpscaler(tmp_path)


def test_other_networks_are_refused(tiny_pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_pipeline.restorer, "input_kind", "latents", raising=False)
    with pytest.raises(ConfigError, match="ConvRestorer"):
        _check(tiny_pipeline)


# The numpy twins against torch


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_bicubic(height: int, width: int, scale: int, seed: int) -> None:
    pixels = random_array(3, height, width, seed=seed)
    wanted = resize.resize_bicubic(pixels[None], Size(scale * height, scale * width))[0]
    np.testing.assert_allclose(arrays.enlarge_bicubic(pixels, scale), wanted, atol=1e-5)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_colour_fix(height: int, width: int, seed: int) -> None:
    a, b = random_array(3, height, width, seed=seed), random_array(3, height, width, seed=seed + 1)
    wanted = colour.wavelet_colour_fix(a[None], b[None])[0]
    np.testing.assert_allclose(arrays.wavelet_colour_fix(a, b), wanted, atol=2e-6)


@given(st.integers(8, 40), st.integers(8, 40), st.integers(0, 7))
@settings(max_examples=30, deadline=None)
def test_patches(height: int, width: int, overlap: int) -> None:
    latents = random_array(2, height, width)
    grid = tiles.PatchGrid(Size(height, width), 8, 8 - overlap)
    rows, cols = (arrays.origins(side, 8, 8 - overlap) for side in (height, width))
    corners = [(row, col) for row in rows for col in cols]
    patches = arrays.split(latents, corners, 8)
    np.testing.assert_array_equal(patches, tiles.split(latents[None], grid))
    window = arrays.raised_cosine_window(8, overlap)
    np.testing.assert_allclose(window, tiles.raised_cosine_window(8, overlap), rtol=1e-6)
    np.testing.assert_allclose(arrays.merge(patches, corners, window, height, width), latents, atol=1e-5)


@pytest.mark.parametrize(
    ("taus", "steps"), [((400, 700, 1000), (8, 14, 20)), ((1000,) * 3, (20,) * 3), ((300, 301, 999), (0, 1, 3))]
)
def test_sampling(taus: tuple[int, ...], steps: tuple[int, ...]) -> None:
    groups = np.arange(11) % 3
    coarse, noise = random_array(11, 2, 4, 4), random_array(11, 2, 4, 4, seed=1)
    alphas = make_scheduler().alphas_cumprod.numpy()
    config = GroupConfig(taus=taus, steps=steps)
    np.testing.assert_array_equal(arrays.plan(taus, steps), plan(config).times)

    def denoise(x, t, index):
        return (0.5 * x - 0.001 * t[:, None, None, None] + 0.1 * index[:, None, None, None]).astype(np.float32)

    sampling = Sampling(coarse, groups, noise, alphas, config, batch_size=4)
    for batch in sampling.batches():
        sampling.advance(batch, denoise(batch.x_t, batch.t, batch.rows))
    result = arrays.sample(
        coarse,
        groups,
        noise,
        denoise,
        alphas,
        taus,
        steps,
        4,
    )
    np.testing.assert_allclose(result, sampling.latents, atol=1e-5)
