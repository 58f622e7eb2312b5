"""Keeping freed memory in the process."""

from __future__ import annotations

import ctypes

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Ask glibc to keep large freed blocks for later use instead of giving them back to the system at once.

    Training on the CPU makes and frees tensors of tens of megabytes in every iteration. By default each of them is a
    fresh mapping whose pages the kernel clears when they are first touched: a fifth of the time of an iteration.
    The peak of memory stays the same; after a peak the process stays that large. It holds for the whole process, so
    commands call it and the library never does by itself.

    Returns:
        Whether it was done; False where the C library is another one.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    most = 2**31 - 1
    # Older glibc refuses thresholds above 32 MiB.
    kept = mallopt(_M_MMAP_THRESHOLD, most) or mallopt(_M_MMAP_THRESHOLD, 2**25)
    return bool(kept and mallopt(_M_TRIM_THRESHOLD, most))
