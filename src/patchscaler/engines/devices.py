"""The devices that engines can use here."""

from collections.abc import Sequence

from patchscaler.errors import ConfigError


def available_devices() -> list[str]:
    """Names of the devices torch can use here, the fastest kind first, "cpu" last."""
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


def choose_devices(names: str, workers: int) -> Sequence[str]:
    """The device of each worker: those that are named, with commas, or one for all workers; raises ConfigError."""
    devices = [choose_device(name) for name in names.split(",")]
    if len(devices) > 1 and workers not in (1, len(devices)):
        raise ConfigError(f"--workers {workers}: {len(devices)} devices make as many workers; leave it out")
    return devices if len(devices) > 1 else devices * workers
