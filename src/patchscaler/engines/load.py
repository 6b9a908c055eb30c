"""From the name of a model to an engine that runs it."""

from importlib.util import find_spec
from pathlib import Path

from patchscaler.engines.protocol import Engine
from patchscaler.errors import ConfigError
from patchscaler.storage import BUNDLED, fetch_model

ENGINES = ("auto", "torch")


def load_engine(
    model: str | Path | None = None, engine: str = "auto", device: str = "auto", threads: int | None = None
) -> Engine:
    """The networks of a model (None: the bundled one; else a bundled name, a folder or a hub id) on a device, in the
    precision that is fastest there.

    threads  of the processor; None: all

    Raises WeightsError, ConfigError.
    """
    if engine not in ENGINES:
        raise ConfigError(f'engine "{engine}": choose {", ".join(ENGINES)}')
    if find_spec("torch") is None:
        raise ConfigError('the engine "torch" needs torch: pip install "patchscaler[torch]"')
    folder = fetch_model(model)
    import torch

    from patchscaler.engines.devices import choose_device
    from patchscaler.engines.torch import TorchEngine
    from patchscaler.models.model import default_dtype, load_model

    if threads is not None:
        torch.set_num_threads(threads)
    device = choose_device(device)
    name = str(model or folder.name)
    return TorchEngine(load_model(folder, default_dtype(device), device), name)


def check_model(model: str) -> None:
    """Raises WeightsError, before other processes are started for it, unless the model can be loaded."""
    folder = fetch_model(model)
    if folder.parent != BUNDLED:
        from patchscaler.models.model import check_folder

        check_folder(folder)
