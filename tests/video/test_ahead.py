"""Items made ahead of their use."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator

import pytest

from manvatar.video.ahead import ahead


def _numbers(made: list[int], closed: threading.Event, count: int = 10, fail_at: int = -1) -> Generator[int]:
    try:
        for number in range(count):
            if number == fail_at:
                raise ArithmeticError("no such number")
            made.append(number)
            yield number
    finally:
        closed.set()


def test_order_and_end() -> None:
    made, closed = [], threading.Event()
    assert list(ahead(_numbers(made, closed))) == list(range(10))
    assert made == list(range(10)) and closed.is_set()
    assert list(ahead(_numbers([], closed, 0))) == []


def test_items_are_made_in_advance_but_not_many() -> None:
    made, closed = [], threading.Event()
    items = ahead(_numbers(made, closed), depth=2)
    assert next(items) == 0
    deadline = time.monotonic() + 5
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert 3 <= len(made) <= 5
    items.close()
    assert closed.wait(5) and len(made) <= 6
    assert not [thread for thread in threading.enumerate() if thread.name == "manvatar-ahead"]


def test_errors_come_where_the_item_would() -> None:
    items = ahead(_numbers([], threading.Event(), fail_at=3))
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ArithmeticError, match="no such number"):
        next(items)
