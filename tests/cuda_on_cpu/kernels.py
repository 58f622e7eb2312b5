"""Runs CUDA kernels in the place of those for CPUs."""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import pytest
import torch
from cuda_on_cpu.build import KEY, build, compiler


def cuda_kernels() -> Callable[[int], AbstractContextManager[None]]:
    """See the fixture ``cuda_on_cpu``; skips the test where kernels cannot be built."""
    cxx = compiler()
    if cxx is None or os.uname().sysname != "Linux":
        pytest.skip("needs Linux and a C++ compiler to run CUDA kernels on the CPU")
    path = str(build(cxx))
    torch.ops.load_library(path)
    set_order = ctypes.CDLL(path).cuda_on_cpu_order
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, KEY))
    names = torch._C._dispatch_get_registrations_for_dispatch_key(KEY)
    ops = [getattr(torch.ops.manvatar, n.partition("::")[2]).default for n in names if n.startswith("manvatar::")]

    @contextmanager
    def instead(order: int) -> Iterator[None]:
        set_order(order)
        library = torch.library.Library("manvatar", "IMPL")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that kernels are overridden
            for op in ops:
                library.impl(op, partial(op.redispatch, keys), "CPU", allow_override=True)
        deterministic = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(deterministic)
            library._destroy()

    return instead
