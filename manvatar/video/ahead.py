"""Working ahead: the next items are made while the last one is being used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

Item = TypeVar("Item")
_END = object()


def ahead(items: Generator[Item], depth: int = 2) -> Iterator[Item]:
    """The items of a generator, of which up to ``depth`` are made in advance, in a thread of its own.

    Errors of the generator come out where its next item would. Closing the result closes the generator.
    """
    waiting: queue.Queue = queue.Queue(maxsize=depth)
    unwanted = threading.Event()

    def put(item: object) -> None:
        while not unwanted.is_set():
            try:
                waiting.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def make() -> None:
        try:
            for item in items:
                put((item, None))
                if unwanted.is_set():
                    break
            put((_END, None))
        except BaseException as error:
            put((_END, error))
        finally:
            items.close()

    maker = threading.Thread(target=make, name="manvatar-ahead", daemon=True)
    maker.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        unwanted.set()
        while not waiting.empty():
            waiting.get_nowait()
        maker.join()
