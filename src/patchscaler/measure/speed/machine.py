"""The machine that the figures belong to: its name, and how fast it multiplies matrices."""

import os
import platform
import time
from typing import Any

import torch

from patchscaler.engines.processor import processor_name, usable_cores
from patchscaler.engines.torch import default_dtype

_LARGEST = {"cpu": 2048, "cuda": 8192}  # sides of the products that the rate is taken from
_LONG_ENOUGH = 0.25  # s: a product that takes longer is not enlarged further


def describe(device: str = "cpu") -> dict[str, Any]:
    """Processor, cores, native bfloat16, memory, system, versions, threads; for a GPU its name too."""
    described = {
        "processor": processor_name(),
        "cores": usable_cores(),
        "native_bfloat16": default_dtype("cpu") is torch.bfloat16,
        "memory_mib": _memory_mib(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    if device.startswith("cuda"):
        described["device"] = torch.cuda.get_device_name(device)
    return described


@torch.no_grad()
def matrix_rate(device: str, dtype: torch.dtype, repeats: int = 5) -> float:
    """Multiply-adds a second of a square matrix product in `dtype`: the best of `repeats`, at the largest size that
    takes no longer than about a second. What `% of peak` is a share of."""
    side, largest = 256, _LARGEST.get(device.partition(":")[0], 2048)
    while True:
        a, b = torch.randn(2, side, side, device=device).to(dtype)
        _product_seconds(a, b)  # the first call sets libraries up
        seconds = _product_seconds(a, b)
        if side >= largest or seconds > _LONG_ENOUGH:
            break
        side *= 2
    return side**3 / min([seconds, *(_product_seconds(a, b) for _ in range(repeats - 1))])


def _product_seconds(a: torch.Tensor, b: torch.Tensor) -> float:
    started = time.perf_counter()
    a @ b
    if a.device.type != "cpu":
        torch.accelerator.synchronize(a.device)
    return time.perf_counter() - started


def _memory_mib() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    except (AttributeError, ValueError, OSError):  # Windows
        return None
