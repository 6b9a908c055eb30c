"""Which engine a call gets, and on which device: nothing of torch is imported where the light engine will do."""

import sys
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from patchscaler.engines.processor import fast_bfloat16, usable_cores
from patchscaler.errors import ConfigError

ENGINES = ("auto", "onnx", "torch")
# Where drivers of accelerators show themselves: NVIDIA's, Jetson's, AMD's, Windows' within Linux, others'.
_DRIVERS = tuple(map(Path, ("/dev/nvidiactl", "/dev/nvmap", "/dev/kfd", "/dev/dxg", "/dev/dri", "/dev/accel")))


def choose_engine(engine: str = "auto", device: str = "auto") -> str:
    """One of "onnx" and "torch".

    Choice for "auto", measured (docs/onnx.md): torch where it is installed and faster, on an accelerator or a processor
    that is fast in bfloat16; the light engine elsewhere, which starts in a fraction of the time and computes as fast in
    float32. Raises ConfigError for another name, an engine that isn't installed, and the light one on another device.
    """
    if engine not in ENGINES:
        raise ConfigError(f'engine "{engine}": choose {", ".join(ENGINES)}')
    installed = {name for name, module in (("torch", "torch"), ("onnx", "onnxruntime")) if _there(module)}
    elsewhere = device not in ("auto", "cpu")
    if engine == "auto":
        engine = "torch" if elsewhere or "onnx" not in installed else "onnx"
        if "torch" in installed and (fast_bfloat16() or (device == "auto" and available_devices()[0] != "cpu")):
            engine = "torch"
    elif engine == "onnx" and elsewhere:
        raise ConfigError(f"--device {device}: the engine onnx runs on the processor; use --engine torch")
    if engine not in installed:
        what = f"--device {device}" if elsewhere else f"the engine {engine}"
        package = '"patchscaler[torch]"' if engine == "torch" else "onnxruntime"
        raise ConfigError(f"{what} needs {engine}: pip install {package}")
    return engine


def described_engines() -> dict[str, str]:
    """Of each engine its version, precision and devices, or how to install it."""
    words = dict.fromkeys(("onnx", "torch"), "not installed")
    if _there("onnxruntime"):
        words["onnx"] = f"ONNX Runtime {version('onnxruntime')}, float32, cpu, {usable_cores()} threads"
    if _there("torch"):
        import torch

        precision = "bfloat16" if fast_bfloat16() else "float32"
        devices = ", ".join(available_devices())
        words["torch"] = f"torch {torch.__version__}, {precision} on cpu, devices {devices}, {usable_cores()} threads"
    elif fast_bfloat16():
        words["torch"] += ': pip install "patchscaler[torch]" halves the time of large pictures on this processor'
    return words


def _there(module: str) -> bool:
    """Whether a module can be imported."""
    if module in sys.modules:
        return sys.modules[module] is not None
    return find_spec(module) is not None


def available_devices() -> list[str]:
    """Names of the devices that can be used here, the fastest kind first, "cpu" last: torch, which takes a second to
    import, is asked only where a driver says that there may be more."""
    if not _there("torch") or (sys.platform == "linux" and not any(path.exists() for path in _DRIVERS)):
        return ["cpu"]
    import torch

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None:
        return ["cpu"]
    return [*(f"{accelerator.type}:{index}" for index in range(torch.accelerator.device_count())), "cpu"]


def choose_device(name: str) -> str:
    """The device of this name, "auto" being the first of `available_devices`; raises ConfigError."""
    available = available_devices()
    if name == "auto":
        return available[0]
    if name not in available and f"{name}:0" not in available:
        raise ConfigError(f"--device {name}: not available here; use auto or one of {', '.join(available)}")
    return name


def choose_devices(names: str, workers: int, engine: str = "auto") -> Sequence[str]:
    """The device of each worker: those that are named, with commas, or one for all workers; raises ConfigError."""
    if choose_engine(engine, names) == "onnx":
        return ["cpu"] * workers
    devices = [choose_device(name) for name in names.split(",")]
    if len(devices) > 1 and workers not in (1, len(devices)):
        raise ConfigError(f"--workers {workers}: {len(devices)} devices make as many workers; leave it out")
    return devices if len(devices) > 1 else devices * workers
