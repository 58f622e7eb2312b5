"""What the machine can do: the two rates that every floor is made of, measured now, and what it is."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from manvatar import __version__


@dataclass(frozen=True)
class Machine:
    """One device as it is at the moment."""

    device: str  # "cpu" or "cuda"
    name: str
    threads: int
    bytes_per_s: float  # copying a large array: bytes read plus bytes written
    flops_per_s: float  # float32 matrix product of 2048 x 2048
    versions: dict[str, str]

    def floor_s(self, moved_bytes: float, flops: float) -> float:
        """No program is faster than its bytes over the bandwidth, nor than its arithmetic over the matrix rate."""
        return max(moved_bytes / self.bytes_per_s, flops / self.flops_per_s)


def best_seconds(call: Callable[[], object], device: str = "cpu", budget_s: float = 0.4, least: int = 3) -> float:
    """The shortest of several runs, the first one not counted: what is left when nothing else disturbs.

    Args:
        call: is run at least ``least`` times and until ``budget_s`` have passed.
        device: with ``cuda`` the device is waited for before and after.
    """
    call()
    best, begin, runs = float("inf"), time.perf_counter(), 0
    while runs < least or time.perf_counter() - begin < budget_s:
        wait_for(device)
        start = time.perf_counter()
        call()
        wait_for(device)
        best = min(best, time.perf_counter() - start)
        runs += 1
    return best


def look_at(device: str) -> Machine:
    """Measure a device."""
    large, copy = (torch.zeros(64 << 20, device=device) for _ in range(2))  # 256 MiB: no cache holds it
    seconds = best_seconds(lambda: copy.copy_(large), device)
    del large
    square = torch.randn(2048, 2048, device=device)
    multiply = best_seconds(lambda: torch.mm(square, square), device)
    return Machine(
        device=device,
        name=torch.cuda.get_device_name() if device == "cuda" else _cpu_name(),
        threads=torch.get_num_threads(),
        bytes_per_s=2 * copy.nbytes / seconds,
        flops_per_s=2 * 2048**3 / multiply,
        versions={"manvatar": __version__, "torch": torch.__version__, "python": platform.python_version()},
    )


def wait_for(device: str) -> None:
    """Wait until ``device`` has done all it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def _cpu_name() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
