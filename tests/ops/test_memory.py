"""keep_freed_memory: large tensors that were freed are used again without new pages."""

from __future__ import annotations

import mmap
import platform
import subprocess
import sys

import pytest
import torch

from manvatar.ops import on_large_pages

pytestmark = pytest.mark.cpu_kernels

_PROGRAM = """
import resource, sys, torch
from manvatar.ops import keep_freed_memory
done = keep_freed_memory() if sys.argv[1] == "keep" else None
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(10_000_000)
before = faults()
for _ in range(5):
    torch.ones(10_000_000)
print(done, faults() - before)
"""


def _run(mode: str) -> tuple[str, int]:
    output = subprocess.run([sys.executable, "-c", _PROGRAM, mode], capture_output=True, text=True, check=True).stdout
    done, faults = output.split()
    return done, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="there is nothing to set without glibc")
def test_freed_memory_is_used_again() -> None:
    done, faults = _run("keep")
    _, usual = _run("leave")
    assert done == "True"
    assert 20 * faults < usual  # five times 40 MB are 50,000 pages of 4 KiB


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_a_copy_on_large_pages_is_like_any_tensor(dtype: torch.dtype) -> None:
    original = (torch.randn(3, 500, 1000) * 9).to(dtype)
    copy = on_large_pages(original)
    assert torch.equal(copy, original) and copy.dtype == dtype and copy.is_contiguous()
    if hasattr(mmap, "MADV_HUGEPAGE"):
        assert copy.data_ptr() % (2 << 20) == 0 and copy.data_ptr() != original.data_ptr()
    copy += 1
    parameter = torch.nn.Parameter(copy.float())
    parameter.data = on_large_pages(parameter.data)
    (parameter * 2).sum().backward()
    assert parameter.grad.eq(2).all() and torch.equal(parameter.detach(), (original + 1).float())


def test_small_tensors_stay_where_they_are() -> None:
    tensor = torch.randn(100)
    assert on_large_pages(tensor) is tensor
