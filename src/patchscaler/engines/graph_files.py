"""Writes graphs to files: with the names of the weights and without their values."""

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from patchscaler.engines.architecture import ARCHITECTURE, configs_of
from patchscaler.engines.graphs import Graph, graphs_of
from patchscaler.errors import ConfigError
from patchscaler.models.model import Model, load_model

OPSET = 20  # has Gelu by tanh
LICENCE = "Apache-2.0 AND BSD-3-Clause"


def write_graphs(folder: Path, out: Path) -> list[Path]:
    """Write the graphs of the model in `folder`, and ARCHITECTURE, which says what models they fit, to `out`.

    Returns the files. Raises ConfigError for a model unlike `tiny`, and without onnx and onnxscript.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError('making graphs needs onnx and onnxscript: pip install "patchscaler[export]"') from error
    out.mkdir(parents=True, exist_ok=True)
    model = load_model(folder, torch.float32)
    paths = []
    for name, graph in graphs_of(model).items():
        paths.append(out / f"{name}.onnx")
        paths[-1].write_bytes(graph_without_weights(name, graph))
    paths.append(out / ARCHITECTURE)
    paths[-1].write_text(architecture(folder, model), encoding="utf-8")
    return paths


def architecture(folder: Path, model: Model) -> str:
    """What ARCHITECTURE holds: a line for each part."""
    lines = []
    for part, config in configs_of(folder).items():
        shapes = {name: list(tensor.shape) for name, tensor in getattr(model, part).state_dict().items()}
        if part == "texture_memory":  # of any size
            shapes = {name: [0, *shape[1:]] if len(shape) > 1 else shape for name, shape in shapes.items()}
        lines.append(f'"{part}": {json.dumps({"config": config, "tensors": shapes})}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def graph_without_weights(name: str, graph: Graph) -> bytes:
    """An ONNX file whose initializers say that their values lie elsewhere."""
    import onnx

    file = _exported(graph)
    own, sizes = file.graph, {value.name: value for value in file.graph.input}
    used = {name for node in own.node for name in node.input}
    del own.input[:]
    for value in sizes.values():
        if value.name in graph.inputs:
            own.input.append(value)
        elif value.name in used:
            shape = [axis.dim_value for axis in value.type.tensor_type.shape.dim]
            weight = onnx.TensorProto(name=value.name, dims=shape, data_type=value.type.tensor_type.elem_type)
            weight.data_location = onnx.TensorProto.EXTERNAL
            weight.external_data.add(key="location", value="weights")
            own.initializer.append(weight)
    for output in own.output:
        for axis, size in graph.outputs[output.name].items():
            output.type.tensor_type.shape.dim[axis].dim_param = size
    _tidy(file)
    file.producer_name, file.producer_version = "patchscaler", ""
    file.doc_string = f"PatchScaler, network {name}: weights by the names of their safetensors files"
    onnx.helper.set_model_props(file, {"licence": LICENCE, "model": "patchscaler", "network": name})
    return bytes(file.SerializeToString(deterministic=True))


def _tidy(file: Any) -> None:
    """Leaves out the exporter's remarks, and numbers what it has named."""
    own = file.graph
    kept = {value.name for value in (*own.input, *own.output, *own.initializer)}
    names: dict[str, str] = {"": ""}
    for number, node in enumerate(own.node):
        for lists in (node.input, node.output):
            lists[:] = [name if name in kept else names.setdefault(name, f"v{len(names)}") for name in lists]
        node.name = f"{node.op_type}_{number}"
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (*own.input, *own.output, *own.initializer):
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
    for message in (own, file):
        message.ClearField("metadata_props")
    del own.value_info[:]


def _exported(graph: Graph) -> Any:
    """The weights enter as inputs, so that nothing is computed of them beforehand and all keep their names."""
    weights = graph.module.state_dict()
    network = _Functional(graph.module.eval())
    tensors = tuple(tensor for tensor, _ in graph.inputs.values())
    shapes = tuple(axes for _, axes in graph.inputs.values())
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)  # torchvision's absence
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter warns of its own parts
        program = torch.onnx.export(
            network,
            (weights, *tensors),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[*weights, *graph.inputs],
            output_names=list(graph.outputs),
            dynamic_shapes=({name: {} for name in weights}, shapes),
        )
    assert program is not None
    return program.model_proto


class _Functional(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = [network]  # no submodule

    def forward(self, weights: dict[str, Tensor], *inputs: Tensor) -> Any:
        return torch.func.functional_call(self._network[0], weights, inputs)
