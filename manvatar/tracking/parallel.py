"""Blocks of frames on all cores."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from manvatar.threads import one_thread

Result = TypeVar("Result")


def over_blocks(function: Callable[[Int[Tensor, "block"]], Result], count: int, size: int) -> list[Result]:
    """``function`` of every block of ``size`` rows (the last may be shorter) of ``count``, in order.

    As many blocks are worked on at once as torch has threads, each on one thread: operations on a few frames are too
    small to be shared out themselves.
    """
    blocks = torch.arange(count).split(size)
    threads = min(torch.get_num_threads(), len(blocks))
    if threads <= 1:
        return [function(block) for block in blocks]
    with one_thread(), ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, blocks))
