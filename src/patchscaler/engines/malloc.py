"""One setting of the C library's allocator, for processes that belong to us."""

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
