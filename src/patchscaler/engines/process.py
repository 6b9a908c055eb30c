"""Settings of a process that belongs to us and does nothing but enlarge pictures."""

import ctypes

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


alone = False


def work_alone(module: str = "") -> None:
    """For a process that does nothing but enlarge pictures, before an engine is loaded, or its module, where that is
    known: it imports less and keeps freed memory."""
    global alone
    alone = True
    keep_freed_memory()
    if module == "patchscaler.engines.torch":
        lighten()


def lighten() -> None:
    """Networks imported from now on need no diffusers."""
    from patchscaler.models import light

    light.choose()
