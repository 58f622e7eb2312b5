"""Recorded iterations: what is recorded can be, and learns what others learn. The recording itself needs a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from training.small import TRAINING, differing, small_dataset, small_trainer, state_of

from manvatar.errors import UserError
from manvatar.rendering import MarchConfig
from manvatar.training import Trainer
from manvatar.training.captured import Captured

# Ops whose result the host or the allocator must know, or that bring something from the host's memory.
_WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "repeat_interleave", "lift_fresh"}


class Again:
    """In the place of a CUDA graph: replaying does it again, with the inputs that were recorded."""

    made = 0

    def __init__(self, function: Callable[[], Tensor], generator: torch.Generator, pool: object) -> None:
        self.function = function
        Again.made += 1

    def replay(self) -> Tensor:
        return self.function()


class WaitsForNothing(TorchDispatchMode):
    """Fails at an op a CUDA graph cannot hold."""

    def __torch_dispatch__(self, op: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = op._schema.name.partition("::")[2]
        masks = name.startswith("index") and any(_is_mask(x) for x in args[1]) if len(args) > 1 else False
        if name in _WAITS or masks or (name == "march" and args[-1] < 0):
            raise AssertionError(f"{op} waits for the device")
        return op(*args, **(kwargs or {}))


def _is_mask(index: Tensor | None) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


def recording_trainer(**changes: Any) -> Trainer:
    """A trainer that does on the CPU what one with ``cuda_graph`` does on a GPU."""
    trainer = small_trainer(small_dataset(), replace(TRAINING, **changes))
    trainer._captured = Captured(trainer._learn_from, trainer.generator, Again)
    return trainer


def steps(trainer: Trainer, count: int) -> Iterable[None]:
    for _ in range(count):
        trainer.step(trainer.progress.iteration / 100)
        yield


# ------------------------------------------------------------------------------------------------------------ Captured


def test_the_first_calls_are_not_replayed() -> None:
    seen: list[tuple[str, int]] = []

    def double(key: str, x: Tensor) -> Tensor:
        seen.append((key, x.data_ptr()))
        return 2 * x

    Again.made = 0
    captured = Captured(double, torch.Generator(), Again)
    inputs = [torch.full((3,), float(i)) for i in range(12)]
    for i, x in enumerate(inputs):
        assert torch.equal(captured("even" if i % 2 == 0 else "odd", x), 2 * x)
    assert Again.made == 2
    for key in ("even", "odd"):
        places = [place for name, place in seen if name == key]
        assert len(set(places[3:])) == 1 and places[3] not in places[:3]  # inputs keep their place once recorded
    captured.forget()
    captured("even", inputs[0])
    assert seen[-1] == ("even", inputs[0].data_ptr())


# ------------------------------------------------------------------------------------------------------------- Trainer


def test_what_is_recorded_waits_for_nothing(cuda_on_cpu) -> None:
    trainer = recording_trainer(coarse_iterations=1, occupancy_every=4)
    recorded = trainer._captured._record

    def checked(function: Callable[[], Tensor], *rest: Any) -> Again:
        def within() -> Tensor:
            with WaitsForNothing():
                return function()

        return recorded(within, *rest)

    trainer._captured._record = checked
    Again.made = 0
    with cuda_on_cpu(0):
        for _ in steps(trainer, 40):
            pass
    assert Again.made >= 2  # with and without the regulariser


def test_the_check_finds_what_waits(cuda_on_cpu) -> None:
    trainer = recording_trainer(coarse_iterations=100)  # so that nothing is recorded
    with cuda_on_cpu(0), WaitsForNothing(), pytest.raises(AssertionError, match="waits for the device"):
        trainer.step(0.0)


def test_recorded_iterations_learn_the_same(cuda_on_cpu) -> None:
    changes = {"coarse_iterations": 8, "occupancy_every": 8, "regularize_every": 4}
    plain, recording = small_trainer(small_dataset(), replace(TRAINING, **changes)), recording_trainer(**changes)
    rooms = set()
    with cuda_on_cpu(0):  # where additions come in the same order whatever stands behind them
        for _ in zip(steps(plain, 40), steps(recording, 40), strict=True):
            rooms.add(recording._room)
    assert plain.progress.iteration == recording.progress.iteration == 40
    assert max(rooms) > 0 and len(recording._captured._recordings) == 2  # with and without the regulariser
    states = state_of(plain), state_of(recording)
    for name in differing(*states):
        torch.testing.assert_close(states[0][name], states[1][name], rtol=1e-4, atol=1e-5)
    assert plain.squared_error == pytest.approx(float(recording.squared_error), rel=1e-4)


def test_room_follows_need(cuda_on_cpu) -> None:
    trainer = recording_trainer(coarse_iterations=1, occupancy_every=4)
    with cuda_on_cpu(0):
        for _ in steps(trainer, 5):
            pass
        enough = trainer._room
        trainer._room = 4096  # far too little: rays without samples do no harm until it is noticed
        for _ in steps(trainer, 12):
            pass
    assert enough >= 8192 and trainer._room > 4096 and trainer.squared_error.isfinite()


def test_uniform_samples_are_refused() -> None:
    with pytest.raises(UserError, match="cuda_graph = true needs samples_per_ray = 0"):
        replace(TRAINING, cuda_graph=True, march=MarchConfig(samples_per_ray=64))


def test_on_a_cpu_nothing_is_recorded() -> None:
    assert small_trainer(small_dataset(), replace(TRAINING, cuda_graph=True))._captured is None
