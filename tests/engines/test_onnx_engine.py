"""The light engine: torch's answers within rounding, network by network and for whole pictures; models it refuses."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import patchscaler
from patchscaler.engines.architecture import ARCHITECTURE
from patchscaler.engines.export import SETTINGS, export_onnx
from patchscaler.engines.graph_files import architecture, graph_without_weights, write_graphs
from patchscaler.engines.graphs import graphs_of
from patchscaler.engines.onnx import GRAPHS, READS, OnnxEngine
from patchscaler.engines.torch import TorchEngine
from patchscaler.errors import ConfigError, WeightsError
from patchscaler.models.model import load_model
from patchscaler.storage import BUNDLED
from patchscaler.upscaler import Upscaler

BUNDLED_MODEL = BUNDLED / "tiny"
SIZES = [(1, 1), (2, 3), (16, 16), (17, 33), (1, 40), (45, 61)]


@pytest.fixture(scope="module")
def graphed_model(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The tests' networks with graphs of their own."""
    folder = tmp_path_factory.mktemp("graphed") / "model"
    shutil.copytree(tiny_model, folder)
    write_graphs(folder, folder / GRAPHS)
    return folder


def both(folder: Path) -> tuple[OnnxEngine, TorchEngine]:
    return OnnxEngine(folder, threads=1), TorchEngine(load_model(folder, torch.float32))


@pytest.fixture(scope="module", params=["bundled", "tests"])
def engines(request: pytest.FixtureRequest) -> tuple[OnnxEngine, TorchEngine]:
    return both(BUNDLED_MODEL if request.param == "bundled" else request.getfixturevalue("graphed_model"))


def random_array(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def assert_close(found: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * max(1, float(np.abs(wanted).max())))


# Network by network


def test_engines_describe_the_model_alike(engines: tuple[OnnxEngine, TorchEngine]) -> None:
    light, heavy = (engine.model for engine in engines)
    for name in light.__dataclass_fields__:
        if name == "dct":
            assert (light.dct.luma, light.dct.chroma) == (heavy.dct.luma, heavy.dct.chroma)
            np.testing.assert_allclose([light.dct.mean, light.dct.std], [heavy.dct.mean, heavy.dct.std], rtol=1e-6)
        elif name != "name":
            np.testing.assert_equal(getattr(light, name), getattr(heavy, name))


@pytest.mark.parametrize("size", [(2, 2), (14, 22)], ids=str)
def test_both_restorers_and_the_gate(engines: tuple[OnnxEngine, TorchEngine], size: tuple[int, int]) -> None:
    light, heavy = engines
    pixels = np.random.default_rng(0).random((1, 3, *size), np.float32)
    for found, wanted in zip(light.restore(pixels), heavy.restore(pixels), strict=True):
        assert_close(found, wanted)
    for lean in (0.0, -1.5):
        for found, wanted in zip(light.fuse(pixels, lean)[:2], heavy.fuse(pixels, lean)[:2], strict=True):
            assert_close(found, wanted)


def test_prompt_and_patch_dit(engines: tuple[OnnxEngine, TorchEngine]) -> None:
    limit = engines[0].model.prompt_limit
    assert limit is not None
    coarse, x_t, rows = 0.7 * random_array(7, 32, 16, 16), random_array(7, 32, 16, 16, seed=1), np.arange(7)
    error = limit + np.array([-1, 1, -1, -1, 1, 1, 1], np.float32)[:, None, None, None] * np.ones(
        (1, 16, 16), np.float32
    )
    t = np.array([999, 999, 999, 400, 400, 20, 20])
    predictions = []
    for engine in engines:
        texture = engine.prompt(coarse[:4], rows[:4], None, 9)
        texture = engine.prompt(coarse[4:5], rows[4:5], texture, 9)
        predictions.append(engine.denoise(x_t, t, coarse, error, texture, rows))
        predictions.append(engine.denoise(x_t, t, coarse, error, None, rows))
    assert_close(predictions[0], predictions[2])
    assert_close(predictions[1], predictions[3])
    differs = np.abs(predictions[0] - predictions[1]).max(axis=(1, 2, 3)) > 1e-5
    np.testing.assert_array_equal(differs, error[:, 0, 0, 0] < limit)  # those that read their texture


def test_textures_are_torchs(engines: tuple[OnnxEngine, TorchEngine]) -> None:
    coarse, rows = random_array(5, 32, 16, 16), np.array([4, 2, 0, 1, 3])
    found, wanted = (engine.prompt(coarse, rows, None, 6) for engine in engines)
    assert_close(found.keys.swapaxes(-1, -2), wanted[0].numpy())
    assert_close(found.values, wanted[1].numpy())


def test_decoder(engines: tuple[OnnxEngine, TorchEngine]) -> None:
    light, heavy = engines
    latents = random_array(1, 32, 5, 9)
    assert_close(light.decode(latents), heavy.decode(latents))


# Whole pictures


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_same_picture(graphed_model: Path, size: tuple[int, int]) -> None:
    image = np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), np.uint8)
    light, heavy = (Upscaler(engine=engine) for engine in both(graphed_model))
    for steps, denoise in (((1, 2, 3), 0.5), ((0, 0, 1), 0.0), ((0, 1, 2), 1.0)):
        options = {"steps": steps, "denoise": denoise, "seed": 7, "batch_size": 5}
        found, wanted = (np.asarray(upscaler(image, **options).pixels) for upscaler in (light, heavy))
        np.testing.assert_allclose(found, wanted, atol=0.1 / 255)  # ten times closer than has to be


def test_same_picture_with_the_bundled_model() -> None:
    rows, cols = np.mgrid[:24, :29]
    image = np.stack([8 * rows, 8 * cols, 128 + 100 * np.sin(rows * cols / 9)], axis=2).astype(np.uint8)
    light, heavy = (Upscaler(engine=engine) for engine in both(BUNDLED_MODEL))
    for denoise in (0.0, 1.0):
        found, wanted = (np.asarray(upscaler(image, denoise=denoise).pixels) for upscaler in (light, heavy))
        np.testing.assert_allclose(found, wanted, atol=0.1 / 255)


def test_batch_size_changes_nothing(graphed_model: Path) -> None:
    image = np.random.default_rng(1).integers(0, 256, (40, 33, 3), np.uint8)
    upscaler = Upscaler(engine=OnnxEngine(graphed_model, threads=1))
    one, many = (np.asarray(upscaler(image, steps=(1, 1, 2), batch_size=size).pixels) for size in (1, 32))
    np.testing.assert_allclose(one, many, atol=1e-5)


def test_no_torch_is_needed(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['diffusers'] = None\n"
        "import numpy\n"
        "from patchscaler import Upscaler\n"
        "print(Upscaler()(numpy.zeros((3, 2, 3), numpy.uint8)).pixels.shape)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "(1, 3, 12, 8)\n"


# The graphs


def test_committed_graphs_are_fresh() -> None:
    """The large ones take half a minute each to be made: theirs is the equality with torch above."""
    model = load_model(BUNDLED_MODEL, torch.float32)
    assert (BUNDLED / GRAPHS / ARCHITECTURE).read_text() == architecture(BUNDLED_MODEL, model)
    for name, graph in graphs_of(model).items():
        if name in ("gate", "decoder"):
            assert graph_without_weights(name, graph) == (BUNDLED / GRAPHS / f"{name}.onnx").read_bytes(), name


def test_graphs_hold_no_weights_but_their_names() -> None:
    files = list((BUNDLED / GRAPHS).glob("*"))
    assert {path.stem for path in files if path.suffix == ".onnx"} == set(READS)
    assert sum(path.stat().st_size for path in files) < 500_000
    engine = OnnxEngine(BUNDLED_MODEL)
    for path in (BUNDLED / GRAPHS).glob("*.onnx"):
        graph = onnx.load(path, load_external_data=False).graph
        names = {f"{part}.{name}" for part in READS[path.stem] for name in engine.load(part)}
        elsewhere = {value.name for value in graph.initializer if value.data_location == onnx.TensorProto.EXTERNAL}
        assert elsewhere
        assert elsewhere <= names


def test_axes_have_names_and_files_a_licence() -> None:
    engine = OnnxEngine(BUNDLED_MODEL)
    axes = {name: [value.shape for value in engine.session(name).get_outputs()] for name in READS}
    assert axes["restorer"][0] == [1, 32, "h", "w"]
    assert axes["decoder"] == [[1, 3, "8*h", "8*w"]]
    assert axes["patch_dit"] == [["n", 32, 16, 16]]
    for name in READS:
        assert engine.session(name).get_modelmeta().custom_metadata_map["licence"] == "Apache-2.0 AND BSD-3-Clause"


# Models


def test_other_networks_need_graphs_of_their_own(tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="export graphs"):
        OnnxEngine(tiny_model)


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(BUNDLED_MODEL, folder)
    shutil.copy(folder / "fusion" / "diffusion_pytorch_model.safetensors", folder / "restorer")
    with pytest.raises(WeightsError, match=r"restorer.*unknown tensor"):
        OnnxEngine(folder)
    shutil.rmtree(folder / "fusion")
    with pytest.raises(WeightsError, match="go together"):
        OnnxEngine(folder)
    shutil.rmtree(folder / "restorer")
    with pytest.raises(WeightsError, match=r"restorer.config\.json: no such file"):
        OnnxEngine(folder)


def test_other_numbers_in_the_configs_are_no_other_network(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(BUNDLED_MODEL, folder)
    config = folder / "restorer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eta": 0.5}))
    for part in ("fusion", "second_restorer"):
        shutil.rmtree(folder / part)
    engine = OnnxEngine(folder)
    assert engine.model.eta == 0.5
    assert engine.model.gate is None
    assert engine.restore(np.zeros((1, 3, 4, 4), np.float32)).gain is None


def test_digest_is_of_the_weights(graphed_model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "other name"
    shutil.copytree(graphed_model, copy)
    assert OnnxEngine(copy).digest() == OnnxEngine(graphed_model).digest() != OnnxEngine(BUNDLED_MODEL).digest()


def test_sampler_goes_to_another_process(graphed_model: Path) -> None:
    engine = OnnxEngine(graphed_model, threads=1)
    twin = pickle.loads(pickle.dumps(engine.sampler("cpu", 1)))()
    coarse, rows = random_array(4, 32, 16, 16), np.arange(4)
    np.testing.assert_array_equal(twin.prompt(coarse, rows, None, 4).keys, engine.prompt(coarse, rows, None, 4).keys)


def test_export_holds_the_weights(graphed_model: Path, tmp_path: Path) -> None:
    paths = export_onnx(graphed_model, tmp_path, steps=(0, 1, 2))
    assert {path.name for path in paths} == {f"{name}.onnx" for name in READS} | {SETTINGS}
    for path in paths:
        if path.suffix == ".onnx":
            onnx.checker.check_model(str(path), full_check=True)
            assert onnx.load(path, load_external_data=False).producer_version == patchscaler.__version__
    settings = json.loads((tmp_path / SETTINGS).read_text())
    assert (settings["patch"], settings["steps"]) == (16, [0, 1, 2])
    engine = OnnxEngine(graphed_model, threads=1)
    coarse, rows = random_array(4, 32, 16, 16), np.arange(4)
    texture = engine.prompt(coarse, rows, None, 4)
    session = onnxruntime.InferenceSession(tmp_path / "prompt.onnx")
    assert [value.name for value in session.get_inputs()] == ["coarse"]
    keys, values = session.run(None, {"coarse": coarse})
    assert_close(keys, texture.keys)
    assert_close(values, texture.values)
    latents = random_array(1, 32, 3, 2)
    session = onnxruntime.InferenceSession(tmp_path / "decoder.onnx")
    mean, std = np.zeros((32, 1, 1), np.float32), np.ones((32, 1, 1), np.float32)
    assert_close(session.run(None, {"latents": latents, "mean": mean, "std": std})[0], engine.decode(latents))
