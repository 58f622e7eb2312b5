"""How many threads PyTorch uses where."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Run the block on one thread: many operations on small tensors, which a second thread slows down.

    On a busy machine each of them would wait for a core; mattes were measured 20 times slower so.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
