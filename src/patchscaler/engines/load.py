"""From the name of a model to an engine that runs it."""

from importlib.util import find_spec
from pathlib import Path

from patchscaler.engines import process
from patchscaler.engines.devices import choose_device, choose_engine
from patchscaler.engines.onnx import OnnxEngine, graphs_for
from patchscaler.engines.protocol import Engine
from patchscaler.errors import ConfigError
from patchscaler.storage import BUNDLED, fetch_model

LATER = ("second_restorer", "fusion")  # sessions that only degraded pictures need


def load_engine(
    model: str | Path | None = None,
    engine: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    ahead: bool = False,
) -> Engine:
    """The networks of a model (None: the bundled one; else a bundled name, a folder or a hub id) on a device, in the
    precision that is fastest there.

    engine   see `choose_engine`; "auto" takes torch for models without graphs, too
    threads  of the processor; None: all
    ahead    the light engine begins at once to get ready what any picture with sampling steps needs

    Raises WeightsError, ConfigError.
    """
    chosen, folder = choose_engine(engine, device), fetch_model(model)
    name = str(model or folder.name)
    if chosen == "onnx":
        try:
            light = OnnxEngine(folder, name, threads or 0)
            light.prepare(*(network for network in light.networks if ahead and network not in LATER))
            return light
        except ConfigError:  # no graphs fit
            if engine == "onnx" or find_spec("torch") is None:
                raise
    if process.alone:
        process.lighten()
    import torch

    from patchscaler.engines.torch import TorchEngine, default_dtype
    from patchscaler.models.model import load_model

    if threads is not None:
        torch.set_num_threads(threads)
    device = choose_device(device)
    return TorchEngine(load_model(folder, default_dtype(device), device), name)


def check_model(model: str) -> None:
    """Raises WeightsError, before other processes are started for it, unless the model can be loaded."""
    folder = fetch_model(model)
    if folder.parent == BUNDLED:
        return
    try:
        graphs_for(folder)
    except ConfigError:
        if find_spec("torch") is None:
            raise
        from patchscaler.models.model import check_folder

        check_folder(folder)
