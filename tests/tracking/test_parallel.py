"""Blocks of frames on all cores, and the cheaper first steps of dense refinement."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from tracking.small import small_problem

from manvatar.geometry import rotation_from_vector
from manvatar.tracking.parallel import over_blocks
from manvatar.tracking.problem import State
from manvatar.tracking.refine import _corrected


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_blocks_come_in_order_and_once(threads: int) -> None:
    assert torch.cat(over_blocks(lambda rows: 2 * rows, 37, 5)).tolist() == [2 * k for k in range(37)]
    assert [len(block) for block in over_blocks(lambda rows: rows, 11, 4)] == [4, 4, 3]
    assert torch.get_num_threads() == threads


def test_several_blocks_do_not_share_out_their_operations() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert over_blocks(lambda rows: torch.get_num_threads(), 8, 2) == [1] * 4
    finally:
        torch.set_num_threads(before)


def test_errors_come_through(threads: int) -> None:
    def fail(rows: torch.Tensor) -> None:
        raise ArithmeticError(f"rows {rows.tolist()}")

    with pytest.raises(ArithmeticError, match="rows"):
        over_blocks(fail, 4, 2)


def test_frames_between_key_frames_move_along() -> None:
    _, state = small_problem(frames=9)
    keys = torch.tensor([0, 8])
    before = state.select(keys)
    turn = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.2, 0.0]], dtype=torch.float64)
    known = State(
        rotation_from_vector(turn) @ before.rotation,
        before.translation_m + torch.tensor([[0.0], [0.008]], dtype=torch.float64),
        before.expression,
        state.shape_m + 0.001,
        state.log_focal,
    )
    moved = _corrected(state, keys, known)
    torch.testing.assert_close(moved.rotation[keys], known.rotation)
    half = rotation_from_vector(torch.tensor([0.0, 0.1, 0.0], dtype=torch.float64))
    torch.testing.assert_close(moved.rotation[4], half @ state.rotation[4])
    torch.testing.assert_close(moved.translation_m[2] - state.translation_m[2], torch.full((3,), 0.002).double())
    torch.testing.assert_close(moved.expression, state.expression)
    assert math.isclose(float((moved.shape_m - state.shape_m).mean()), 0.001, rel_tol=1e-9)
