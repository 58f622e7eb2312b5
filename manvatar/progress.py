"""Progress bars of the stages."""

from __future__ import annotations

from collections.abc import Callable

from tqdm import tqdm


def frames_bar(what: str, frames: int, shown: bool = True) -> tqdm:
    """A bar that counts frames of a clip."""
    return tqdm(total=frames, desc=what, unit="frame", disable=not shown)


def advancing(bar: tqdm) -> Callable[[int, int], None]:
    """A ``progress(done, total)`` callback that moves ``bar``."""

    def advance(done: int, _total: int) -> None:
        bar.update(done - bar.n)

    return advance
