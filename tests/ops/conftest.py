"""Tests of ops run twice: with the kernels for CPUs, and with those for CUDA on the CPU (``tests/cuda_on_cpu``)."""

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

_KERNELS = ("cpu", "cuda")
_SHUFFLED = 2


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if not {"cuda", "cuda_on_cpu"} & set(metafunc.fixturenames):
        metafunc.parametrize("kernels", _KERNELS, indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def is_wanted(item: pytest.Item) -> bool:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        return parameters.get("kernels") != "cuda" or item.get_closest_marker("cpu_kernels") is None

    items[:] = [item for item in items if is_wanted(item)]


@pytest.fixture(scope="session")
def cuda_on_cpu() -> Callable[[int], AbstractContextManager[None]]:
    """Within ``with cuda_on_cpu(order):`` ops on CPU tensors run the CUDA kernels.

    ``order`` is that in which threads and blocks take turns: 0 ascending, 1 descending, else the seed of a random one.
    Memory of tensors is not-a-number until it is written.
    """
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


@pytest.fixture(autouse=True)
def kernels(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whose kernels the ops of this test run."""
    if getattr(request, "param", "cpu") == "cpu":
        yield
    else:
        with request.getfixturevalue("cuda_on_cpu")(_SHUFFLED):
            yield
