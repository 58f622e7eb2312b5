"""How the CPU's memory is had: keeping what was freed, and large pages."""

from __future__ import annotations

import ctypes
import mmap
import resource
import sys

import torch
from torch import Tensor

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8

_LARGE_PAGE = 2 << 20


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
    # What a thread has freed in a pool of its own would neither be used by others nor given back.
    mallopt(_M_ARENA_MAX, 1)
    most = 2**31 - 1
    # Older glibc refuses thresholds above 32 MiB.
    kept = mallopt(_M_MMAP_THRESHOLD, most) or mallopt(_M_MMAP_THRESHOLD, 2**25)
    return bool(kept and mallopt(_M_TRIM_THRESHOLD, most))


def give_back_freed_memory() -> None:
    """Ask glibc to give back what was freed and kept: between stages that need memory of other sizes."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):  # the C library is another one
        return


def peak_memory_bytes() -> int:
    """The most this process had in the machine's memory at once, a GPU's memory aside."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def on_large_pages(tensor: Tensor) -> Tensor:
    """A dense copy whose memory the kernel is asked to hold in pages of 2 MiB.

    A grid of tens of megabytes is read at random places; with pages of 4 KiB finding out where a page is costs as much
    as reading it. Small tensors, those on other devices, and all where the system has no such pages, are returned
    unchanged.
    """
    size = tensor.numel() * tensor.element_size()
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is None or tensor.device.type != "cpu" or size < 2 * _LARGE_PAGE:
        return tensor
    memory = mmap.mmap(-1, size + _LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        memory.madvise(advice)
    except OSError:  # a kernel without them
        return tensor
    raw = torch.frombuffer(memory, dtype=torch.uint8)  # keeps the mapping alive
    first = -raw.data_ptr() % _LARGE_PAGE
    copy = raw[first : first + size].view(tensor.dtype).view(tensor.shape)
    return copy.copy_(tensor.detach())
