"""keep_freed_memory: large tensors that were freed are used again without new pages."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_PROGRAM = """
import resource, sys, torch
from manvatar.ops import keep_freed_memory
done = keep_freed_memory() if sys.argv[1] == "keep" else None
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
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

