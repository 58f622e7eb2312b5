"""Which frames are not believed, and what fills the gaps."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from tracking.small import small_problem

from manvatar.geometry import rotation_from_vector, vector_from_rotation
from manvatar.tracking.config import TrackerConfig
from manvatar.tracking.failures import bridged, failed, interpolated, residual_fraction
from manvatar.tracking.optimise import Terms, minimise
from manvatar.tracking.priors import motion_prior
from manvatar.tracking.problem import Problem, State, residuals_px

FACING = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))


def _steady(frames: int) -> tuple[Problem, State]:
    """A head that stands still and fits its landmarks to half a pixel; nothing is missing."""
    problem, state = small_problem(frames=frames, huber=3.0)
    state = replace(
        state,
        rotation=FACING.repeat(frames, 1, 1),
        translation_m=torch.tensor([0.0, 0.0, 1.0]).double().repeat(frames, 1),
        expression=torch.zeros_like(state.expression),
    )
    problem = replace(problem, weight=torch.ones_like(problem.weight), target_px=torch.zeros_like(problem.target_px))
    target = residuals_px(problem, state) + 0.35 * torch.randn(frames, 7, 2).double()
    return replace(problem, target_px=target), state


def test_a_good_track_has_no_failures() -> None:
    problem, state = _steady(8)
    assert not failed(problem, state, 25.0).any()


def test_each_kind_of_failure_is_found_in_its_frame() -> None:
    problem, state = _steady(8)

    def bad_frames(problem: Problem, state: State) -> list[int]:
        return torch.nonzero(failed(problem, state, 25.0))[:, 0].tolist()

    target = problem.target_px.clone()
    target[3] += 30
    assert bad_frames(replace(problem, target_px=target), state) == [3]  # large residual

    rotation = state.rotation.clone()
    rotation[5] = rotation_from_vector(torch.tensor([0.0, math.pi, 0.0]).double()) @ rotation[5]
    assert 5 in bad_frames(problem, replace(state, rotation=rotation))  # looks away

    expression = state.expression.clone()
    expression[2, 0] = 50
    assert 2 in bad_frames(problem, replace(state, expression=expression))

    distance = state.translation_m.clone()
    distance[4, 2] *= 1.3
    scaled = replace(state, translation_m=distance)
    exact = replace(problem, target_px=problem.target_px + residuals_px(problem, scaled))
    assert bad_frames(exact, scaled) == [4]  # fits, but no head moves 30 cm and back in 40 ms


def test_a_fast_nod_is_no_failure_but_a_frame_apart_from_its_neighbours_is() -> None:
    problem, state = _steady(8)

    def nodding(angles_deg: list[float]) -> tuple[Problem, State]:
        turn = torch.tensor([[math.radians(angle), 0.0, 0.0] for angle in angles_deg]).double()
        turned = replace(state, rotation=rotation_from_vector(turn) @ state.rotation)
        return replace(problem, target_px=problem.target_px + residuals_px(problem, turned)), turned

    assert not failed(*nodding([0, 0, 1, 12, 24, 25, 25, 25]), 25.0).any()
    assert torch.nonzero(failed(*nodding([0, 0, 0, 12, 0, 0, 0, 0]), 25.0))[:, 0].tolist() == [3]


def test_residual_fraction_is_relative_to_the_face() -> None:
    problem, state = _steady(3)
    far = replace(problem, target_px=problem.target_px + 2.0, unit_px=problem.unit_px * 2)
    direct = (residuals_px(far, state) ** 2).sum(-1).mean(1).sqrt() / far.unit_px
    torch.testing.assert_close(residual_fraction(far, state), direct)


def test_gaps_are_interpolated_and_ends_held() -> None:
    turn = torch.tensor([0.0, 0.4, 0.0]).double()
    state = State(
        rotation=torch.stack([FACING, rotation_from_vector(turn) @ FACING]),
        translation_m=torch.tensor([[0.0, 0.0, 1.0], [0.4, 0.0, 1.0]]).double(),
        expression=torch.tensor([[0.0], [4.0]]).double(),
        shape_m=torch.zeros(1, 3).double(),
        log_focal=torch.tensor(6.0).double(),
    )
    full = interpolated(state, torch.tensor([2, 6]), torch.arange(9))
    assert full.expression[:, 0].tolist() == [0, 0, 0, 1, 2, 3, 4, 4, 4]
    angle = vector_from_rotation(full.rotation @ FACING.T)[:, 1]
    torch.testing.assert_close(angle, torch.tensor([0, 0, 0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4]).double())
    torch.testing.assert_close(full.translation_m[:, 0], angle)


def test_short_gaps_are_bridged_and_long_ones_are_not() -> None:
    problem, state = _steady(4)
    frame = torch.tensor([10, 11, 14, 30])
    whole, filled, known = bridged(replace(problem, frame=frame), state)
    assert whole.frame.tolist() == [10, 11, 12, 13, 14, 30]
    assert known.tolist() == [0, 1, 4, 5]
    assert float(whole.weight[2:4].sum()) == 0
    torch.testing.assert_close(whole.target_px[known], problem.target_px)
    torch.testing.assert_close(filled.select(known).translation_m, state.translation_m)


def test_a_motion_is_carried_across_a_short_gap() -> None:
    """A prior over a bridged gap follows a parabola that linear interpolation would cut."""
    problem, state = _steady(12)
    time = torch.arange(12, dtype=torch.float64)
    path = torch.stack([0.0002 * (time - 5.5) ** 2, 0 * time, 1 + 0 * time], 1)
    state = replace(state, translation_m=path)
    problem = replace(problem, target_px=problem.target_px + residuals_px(problem, state))
    seen = torch.tensor([0, 1, 2, 3, 4, 7, 8, 9, 10, 11])
    whole, start, _ = bridged(problem.select(seen), state.select(seen))
    prior = motion_prior(whole.frame, ("a", "b", "c"), 25.0, TrackerConfig())
    found = minimise(Terms(whole, motion=prior), start, max_steps=30, tolerance=1e-9).state
    linear, carried = (s.translation_m[5:7, 0] - path[5:7, 0] for s in (start, found))
    assert float(carried.abs().max()) < 0.6 * float(linear.abs().max())
