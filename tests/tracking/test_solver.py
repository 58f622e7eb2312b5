"""The banded arrow solver against a dense solve of the same matrix."""

from __future__ import annotations

import pytest
import torch

from manvatar.tracking.priors import second_difference_coupling
from manvatar.tracking.solver import Coupling, NotPositive, solve

WIDTH, SHARED = 5, 4


def _blocks(frames: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    rows = torch.randn(frames, 12, WIDTH, dtype=torch.float64)
    border = torch.randn(frames, WIDTH, SHARED, dtype=torch.float64)
    corner = 50 * torch.eye(SHARED, dtype=torch.float64) * frames
    gradient = torch.randn(frames, WIDTH, dtype=torch.float64)
    return rows.transpose(1, 2) @ rows, gradient, border, corner, torch.randn(SHARED, dtype=torch.float64)


def _dense(frame: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    """The matrix A, element by element."""
    frames = len(frame)
    matrix = torch.zeros(frames * WIDTH, frames * WIDTH, dtype=torch.float64)
    for f in range(frames):
        matrix[f * WIDTH : (f + 1) * WIDTH, f * WIDTH : (f + 1) * WIDTH] = frame[f]
    if weight is not None:
        for f in range(1, frames - 1):
            for x in range(WIDTH):
                row = torch.zeros(frames * WIDTH, dtype=torch.float64)
                row[(f - 1) * WIDTH + x], row[f * WIDTH + x], row[(f + 1) * WIDTH + x] = 1, -2, 1
                matrix += weight[f, x] * torch.outer(row, row)
    return matrix


def _coupling(frames: int) -> tuple[torch.Tensor, Coupling]:
    weight = torch.rand(frames, WIDTH, dtype=torch.float64)
    weight[0] = weight[-1] = 0
    return weight, second_difference_coupling(weight)


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 7, 8])
def test_arrow_equals_dense_solve(frames: int, coupled: bool) -> None:
    frame, gradient, border, corner, shared_gradient = _blocks(frames)
    weight, coupling = _coupling(frames) if coupled else (None, None)
    matrix = torch.zeros(frames * WIDTH + SHARED, frames * WIDTH + SHARED, dtype=torch.float64)
    matrix[:-SHARED, :-SHARED] = _dense(frame, weight)
    matrix[:-SHARED, -SHARED:] = border.reshape(-1, SHARED)
    matrix[-SHARED:, :-SHARED] = matrix[:-SHARED, -SHARED:].T
    matrix[-SHARED:, -SHARED:] = corner
    expected = torch.linalg.solve(matrix, -torch.cat([gradient.flatten(), shared_gradient]))
    step = solve(frame, gradient, coupling, border, corner, shared_gradient)
    torch.testing.assert_close(torch.cat([step.frame.flatten(), step.shared]), expected, rtol=1e-9, atol=1e-12)
    # The Schur complement is the information about the shared unknowns: the inverse of their covariance.
    covariance = torch.linalg.inv(matrix)[-SHARED:, -SHARED:]
    torch.testing.assert_close(torch.linalg.inv(step.schur), covariance, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("frames", [1, 2, 5, 6])
def test_without_shared_columns(frames: int) -> None:
    frame, gradient, *_ = _blocks(frames)
    weight, coupling = _coupling(frames)
    expected = torch.linalg.solve(_dense(frame, weight), -gradient.flatten())
    step = solve(frame, gradient, coupling)
    torch.testing.assert_close(step.frame.flatten(), expected, rtol=1e-9, atol=1e-12)
    assert step.shared is None and step.schur is None


@pytest.mark.parametrize("coupled", [False, True])
def test_indefinite_matrix_is_refused(coupled: bool) -> None:
    frame, gradient, *_ = _blocks(4)
    frame[2] = -frame[2]
    with pytest.raises(NotPositive):
        solve(frame, gradient, _coupling(4)[1] if coupled else None)
