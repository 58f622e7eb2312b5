"""A problem of a few points and frames, to be checked by brute force."""

from __future__ import annotations

import math

import torch

from manvatar.geometry import rotation_from_vector
from manvatar.tracking.problem import Problem, State, residuals_px


def small_problem(frames: int = 4, points: int = 7, expressions: int = 3, huber: float = 1e6) -> tuple[Problem, State]:
    """A state near a head one metre away, and targets a few pixels from its projection; one point is missing."""
    double = {"dtype": torch.float64}
    facing = torch.diag(torch.tensor([1.0, -1.0, -1.0], **double))
    state = State(
        rotation=rotation_from_vector(0.2 * torch.randn(frames, 3, **double)) @ facing,
        translation_m=torch.tensor([0.01, -0.02, 1.0], **double) + 0.02 * torch.randn(frames, 3, **double),
        expression=torch.randn(frames, expressions, **double),
        shape_m=0.05 * torch.randn(points, 3, **double),
        log_focal=torch.tensor(math.log(700.0), **double),
    )
    weight = 0.5 + torch.rand(frames, points, **double)
    weight[1, 2] = 0
    problem = Problem(
        target_px=torch.zeros(frames, points, 2, **double),
        weight=weight,
        unit_px=60 + 5 * torch.rand(frames, **double),
        sigma=0.01 + 0.01 * torch.rand(points, **double),
        expression_basis_m=0.004 * torch.randn(expressions, points, 3, **double),
        pairs=torch.tensor([[0, 3], [2, 5]]),
        pair_weight=4.0,
        huber=huber,
        frame=torch.arange(frames),
    )
    target = residuals_px(problem, state) + torch.randn(frames, points, 2, **double)
    return Problem(**{**problem.__dict__, "target_px": target}), state
