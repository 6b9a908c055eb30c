"""Settings of a process that belongs to us and does nothing but enlarge pictures."""

import ctypes
from importlib.util import find_spec

# <malloc.h> of glibc
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT = 512 * 2**20  # bytes


def keep_freed_memory() -> None:
    """Large buffers that were freed are used again instead of given back and asked for anew: the system would clear
    their pages each time, which took a fifth of the restorer's time. Without effect where the C library isn't glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # other C libraries; Windows
        return
    mallopt(M_MMAP_THRESHOLD, KEPT)
    mallopt(M_TRIM_THRESHOLD, KEPT)


def work_alone(engine: str = "auto") -> None:
    """For a process that does nothing but enlarge pictures, before an engine is loaded: it imports less and keeps freed
    memory."""
    keep_freed_memory()
    if engine in ("auto", "torch", "patchscaler.engines.torch") and find_spec("torch") is not None:
        from patchscaler.models import light

        light.choose()
