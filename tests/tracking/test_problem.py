"""The Gauss-Newton system of the landmark term against automatic differentiation in float64."""

from __future__ import annotations

import pytest
import torch
from tracking.small import small_problem

from manvatar.tracking.problem import (
    POSE,
    Problem,
    State,
    energy,
    huber_energy,
    huber_weight,
    linearise,
    residuals_px,
    rows,
)


def _moved_rows(problem: Problem, state: State, step: torch.Tensor) -> torch.Tensor:
    """Weighted residual rows after a step along every column, frames first, then shared."""
    frames, width = len(state.rotation), POSE + state.expression.shape[1]
    moved = state.moved(step[: frames * width].reshape(frames, width), step[frames * width :])
    return rows(problem, residuals_px(problem, moved)).flatten()


def test_blocks_are_the_products_of_the_jacobian() -> None:
    problem, state = small_problem()
    frames, width = len(state.rotation), POSE + state.expression.shape[1]
    zero = torch.zeros(frames * width + 3 * len(state.shape_m) + 1, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda step: _moved_rows(problem, state, step), zero)
    residual = _moved_rows(problem, state, zero)
    normal, gradient = jacobian.T @ jacobian, jacobian.T @ residual
    system = linearise(problem, state, pose_only=False, shared=True, block=3)  # two blocks, the second shorter
    split = frames * width
    for f in range(frames):
        here = slice(f * width, (f + 1) * width)
        torch.testing.assert_close(system.frame[f], normal[here, here], rtol=1e-8, atol=1e-6)
        torch.testing.assert_close(system.border[f], normal[here, split:], rtol=1e-8, atol=1e-6)
    torch.testing.assert_close(system.gradient.flatten(), gradient[:split], rtol=1e-8, atol=1e-6)
    torch.testing.assert_close(system.corner, normal[split:, split:], rtol=1e-8, atol=1e-6)
    torch.testing.assert_close(system.shared_gradient, gradient[split:], rtol=1e-8, atol=1e-6)


def test_pose_only_is_a_part_of_the_whole() -> None:
    problem, state = small_problem()
    whole = linearise(problem, state, pose_only=False, shared=False)
    pose = linearise(problem, state, pose_only=True, shared=False)
    torch.testing.assert_close(pose.frame, whole.frame[:, :POSE, :POSE])
    torch.testing.assert_close(pose.gradient, whole.gradient[:, :POSE])


def test_gradient_is_that_of_the_robust_energy() -> None:
    problem, state = small_problem(huber=1.0)  # most rows lie in the linear part
    frames, width = len(state.rotation), POSE + state.expression.shape[1]
    step = torch.zeros(frames, width, dtype=torch.float64, requires_grad=True)
    shared = torch.zeros(3 * len(state.shape_m) + 1, dtype=torch.float64, requires_grad=True)
    energy(problem, state.moved(step, shared)).sum().backward()
    system = linearise(problem, state, pose_only=False, shared=True)
    torch.testing.assert_close(2 * system.gradient, step.grad, rtol=1e-8, atol=1e-6)
    torch.testing.assert_close(2 * system.shared_gradient, shared.grad, rtol=1e-8, atol=1e-6)


def test_a_missing_point_does_not_matter() -> None:
    problem, state = small_problem()
    target = problem.target_px.clone()
    target[1, 2] += 1000  # weight 0, and member of a pair
    other = Problem(**{**problem.__dict__, "target_px": target})
    torch.testing.assert_close(energy(other, state), energy(problem, state))
    one, two = (linearise(p, state, pose_only=False, shared=True) for p in (problem, other))
    torch.testing.assert_close(one.gradient, two.gradient)
    torch.testing.assert_close(one.shared_gradient, two.shared_gradient)


def test_a_point_behind_the_camera_costs_infinity() -> None:
    problem, state = small_problem()
    translation = state.translation_m.clone()
    translation[0, 2] = 0.0
    value = energy(problem, State(**{**state.__dict__, "translation_m": translation}))
    assert torch.isinf(value[0]) and torch.isfinite(value[1:]).all()


@pytest.mark.parametrize("threshold", [0.5, 3.0])
def test_huber(threshold: float) -> None:
    length = torch.linspace(0.01, 10, 200, dtype=torch.float64, requires_grad=True)
    value = huber_energy(length, threshold)
    small = length < threshold
    torch.testing.assert_close(value[small], length[small] ** 2)
    (slope,) = torch.autograd.grad(value.sum(), length)
    torch.testing.assert_close(slope, (2 * huber_weight(length, threshold) * length).detach())
    assert float(slope.max()) <= 2 * threshold + 1e-12
