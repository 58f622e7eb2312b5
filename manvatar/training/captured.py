"""Work on a GPU that is recorded once and then launched as a whole: hundreds of small kernels cost one launch.

PyTorch needs some microseconds to launch a kernel from Python, and an iteration has some hundred: on a fast GPU that is
most of its time. A CUDA graph holds the kernels of one iteration with all their arguments. So it can only be made of
work that does not wait for the device, whose shapes do not depend on data, and whose numbers that change lie in tensors
(CUDA C++ Programming Guide, "CUDA Graphs").
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

_EAGER_CALLS = 3  # before a recording: libraries set themselves up, and autograd makes what it keeps


class Recording:
    """``function`` with inputs that keep their place, as a CUDA graph. Making it runs nothing."""

    def __init__(self, function: Callable[[], Tensor], generator: torch.Generator, pool: object) -> None:
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(generator)
        with torch.cuda.graph(self.graph, pool=pool):
            self.output = function()

    def replay(self) -> Tensor:
        self.graph.replay()
        return self.output


class Captured:
    """Calls ``function(key, *inputs)``, and after some calls with a key replays what it did with it.

    Args:
        function: works on ``inputs``, on tensors that keep their place, and on nothing else that changes. Returns one
            tensor, which the next call overwrites.
        generator: of the random numbers it draws; they go on from one replay to the next.
        record: makes a recording of a function without arguments; the default is a CUDA graph.

    Inputs of the same key always have the same shapes.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        generator: torch.Generator,
        record: Callable[..., Recording] = Recording,
    ) -> None:
        self._function, self._generator, self._record = function, generator, record
        self._calls: dict[Hashable, int] = {}
        self._recordings: dict[Hashable, tuple[list[Tensor], Recording]] = {}
        self._pool: object = None

    def forget(self) -> None:
        """Drop all recordings, whose keys will not come again; their memory is free then."""
        self._calls.clear()
        self._recordings.clear()
        self._pool = None

    def __call__(self, key: Hashable, *inputs: Tensor) -> Tensor:
        self._calls[key] = self._calls.get(key, 0) + 1
        if self._calls[key] <= _EAGER_CALLS:
            return self._aside(key, inputs)
        if key not in self._recordings:
            places = [x.clone() for x in inputs]
            if self._pool is None and inputs[0].is_cuda:
                self._pool = torch.cuda.graph_pool_handle()
            recording = self._record(lambda: self._function(key, *places), self._generator, self._pool)
            self._recordings[key] = places, recording
        places, recording = self._recordings[key]
        for place, value in zip(places, inputs, strict=True):
            place.copy_(value)
        return recording.replay()

    def _aside(self, key: Hashable, inputs: tuple[Tensor, ...]) -> Tensor:
        """On a stream of its own, as a recording will be made: autograd remembers on which it was."""
        if not inputs[0].is_cuda:
            return self._function(key, *inputs)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            output = self._function(key, *inputs)
        torch.cuda.current_stream().wait_stream(stream)
        return output
