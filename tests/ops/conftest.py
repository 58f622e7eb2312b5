"""Tests of ops run twice: with the kernels for CPUs, and with those for CUDA on the CPU (``tests/cuda_on_cpu``)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

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


@pytest.fixture(autouse=True)
def kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    """Whose kernels the ops of this test run: ``cpu`` or ``cuda``."""
    name = getattr(request, "param", "cpu")
    if name == "cpu":
        yield name
    else:
        with request.getfixturevalue("cuda_on_cpu")(_SHUFFLED):
            yield name
