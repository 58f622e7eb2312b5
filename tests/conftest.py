"""What every test shares: restored random generators, two threads at most, and the clips where they are."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

# Before torch is loaded: threads that wait busily make a machine with other work several times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

if TYPE_CHECKING:
    from small_fit import SmallFit

_CLIPS = Path(__file__).resolve().parents[2] / "shared" / "data"

torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(autouse=True)
def restored_generators() -> Iterator[None]:
    """Every test starts from the same seed and leaves the global generators as it found them."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the global generator is the one to restore
    torch.manual_seed(0)
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2])


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real clips and face models beside the checkout; tests that need it are skipped without it."""
    if not _CLIPS.is_dir():
        pytest.skip("needs the clips in ../shared/data, which are not part of the repository")
    return _CLIPS


@pytest.fixture(scope="session")
def small_fit(tmp_path_factory: pytest.TempPathFactory) -> SmallFit:
    """``manvatar fit``, done once on a tiny synthetic clip."""
    from small_fit import make_small_fit

    return make_small_fit(tmp_path_factory.mktemp("fit"))


@pytest.fixture
def cuda() -> torch.device:
    """A GPU; without one the test is skipped, or fails where MANVATAR_REQUIRE_CUDA=1 says there must be one."""
    if not torch.cuda.is_available():
        if os.environ.get("MANVATAR_REQUIRE_CUDA") == "1":
            pytest.fail("MANVATAR_REQUIRE_CUDA=1 but torch.cuda.is_available() is false")
        pytest.skip("needs a CUDA device")
    return torch.device("cuda")


@pytest.fixture(scope="session")
def cuda_on_cpu() -> Callable[[int], AbstractContextManager[None]]:
    """Within ``with cuda_on_cpu(order):`` ops on CPU tensors run the CUDA kernels (``tests/cuda_on_cpu``).

    ``order`` is that in which threads and blocks take turns: 0 ascending, 1 descending, else the seed of a random one.
    Memory of tensors is not-a-number until it is written.
    """
    from cuda_on_cpu.kernels import cuda_kernels

    return cuda_kernels()
