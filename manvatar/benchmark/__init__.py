"""``manvatar benchmark``: how long everything takes, beside plain PyTorch and beside what the machine allows."""

from __future__ import annotations

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """See :mod:`manvatar.benchmark.command`, which is imported only when it is called."""
    from manvatar.benchmark.command import main as command

    return command(argv)
