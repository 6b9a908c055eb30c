"""The model as ONNX files with their weights, for programs without this package."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from patchscaler import __version__
from patchscaler.engines.onnx import READS, OnnxEngine
from patchscaler.errors import ConfigError

SETTINGS = "patchscaler.json"


def export_onnx(folder: Path, out: Path, **settings: Any) -> list[Path]:
    """Write the networks of the model in `folder`, and SETTINGS with what else it takes to enlarge a picture, to `out`.

    settings  more of these

    Graphs and arithmetic are the light engine's. Weights stay in the precision in which they are stored, with a cast.
    Returns the files. Raises ConfigError without onnx, otherwise as OnnxEngine.
    """
    try:
        import onnx
    except ImportError as error:
        raise ConfigError('the export needs onnx: pip install "patchscaler[export]"') from error
    engine = OnnxEngine(folder)
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for network in engine.networks:
        file = onnx.load_from_string(engine.graph(network))
        file.producer_version = __version__
        weights = {f"{part}.{name}": array for part in READS[network] for name, array in engine.load(part).items()}
        if network == "prompt":
            weights |= engine.memory
        _fill(file.graph, weights)
        onnx.checker.check_model(file)
        paths.append(out / f"{network}.onnx")
        onnx.save(file, str(paths[-1]))
    settings = asdict(engine.model) | {"alphas": engine.model.alphas.tolist()} | settings
    paths.append(out / SETTINGS)
    paths[-1].write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    return paths


def _fill(graph: Any, weights: dict[str, Any]) -> None:
    """Gives the weights, and inputs of such names, their values."""
    from onnx import TensorProto, helper, numpy_helper

    for value in [value for value in graph.input if value.name in weights]:
        graph.input.remove(value)
        graph.initializer.add(name=value.name, data_location=TensorProto.EXTERNAL)
    casts = []
    for weight in graph.initializer:
        if weight.data_location != TensorProto.EXTERNAL:
            continue
        name, array = weight.name, weights[weight.name]
        halved = array.dtype == np.float16
        weight.CopyFrom(numpy_helper.from_array(array, f"{name}_half" if halved else name))
        if halved:
            casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
