"""The linear step: a matrix of frame blocks, tied in time by diagonal bands, with an arrow of shared columns.

    [ A   B ] [ x ]     [ g ]        A: a dense block of x columns for each frame, plus diagonal coupling of every
    [ B^T C ] [ y ] = - [ h ]           frame with the next and the one after it (second differences in time)

Without coupling A is block diagonal and everything is batched; with it A is a band of half width 2x, factored by
LAPACK's banded Cholesky. The shared columns are eliminated by their Schur complement ``C - B^T A^-1 B``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Coupling:
    """Diagonal terms of the temporal prior: on each frame, with the next frame, with the one after the next."""

    own: Float[Tensor, "f x"]
    next: Float[Tensor, "f x"]  # row f couples f and f + 1; the last row is 0
    after: Float[Tensor, "f x"]  # row f couples f and f + 2; the last two rows are 0


@dataclass(frozen=True)
class Step:
    """Solution of the system, and the Schur complement of the shared columns (their information matrix)."""

    frame: Float[Tensor, "f x"]
    shared: Float[Tensor, "S"] | None
    schur: Float[Tensor, "S S"] | None


class NotPositive(Exception):
    """The damped matrix is not positive definite; damp more."""


def solve(
    frame: Float[Tensor, "f x x"],
    gradient: Float[Tensor, "f x"],
    coupling: Coupling | None = None,
    border: Float[Tensor, "f x S"] | None = None,
    corner: Float[Tensor, "S S"] | None = None,
    shared_gradient: Float[Tensor, "S"] | None = None,
) -> Step:
    """Solve the system above; float64, symmetric ``frame`` and ``corner``.

    Raises:
        NotPositive: a factorisation failed.
    """
    count, width = gradient.shape
    right = -gradient[..., None]
    if border is not None:
        right = torch.cat([right, border], 2)
    solved = _solve_blocks(frame, right) if coupling is None else _solve_band(frame, coupling, right)
    if border is None:
        return Step(solved[..., 0], None, None)
    flat_border = border.reshape(count * width, -1)
    inverse_border = solved[..., 1:].reshape(count * width, -1)
    schur = corner - flat_border.T @ inverse_border
    reduced = -shared_gradient - flat_border.T @ solved[..., 0].reshape(-1)
    factor = _cholesky((schur + schur.T) / 2)
    shared = torch.cholesky_solve(reduced[:, None], factor)[:, 0]
    step = solved[..., 0] - (inverse_border @ shared).reshape(count, width)
    return Step(step, shared, schur)


def _cholesky(matrix: Tensor) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(matrix)
    if bool((info != 0).any()) or not bool(torch.isfinite(factor).all()):
        raise NotPositive
    return factor


def _solve_blocks(frame: Tensor, right: Tensor) -> Tensor:
    return torch.cholesky_solve(right, _cholesky(frame))


def _solve_band(frame: Tensor, coupling: Coupling, right: Tensor) -> Tensor:
    """Banded Cholesky. LAPACK's lower form: ``band[k, j] = A[j + k, j]``."""
    count, width, columns = right.shape
    band = np.zeros((2 * width + 1, count * width))
    row, column = np.tril_indices(width)
    first = np.arange(count)[:, None] * width
    band[row - column, first + column] = frame.numpy()[:, row, column]
    band[0] += coupling.own.numpy().reshape(-1)
    band[width] += coupling.next.numpy().reshape(-1)
    band[2 * width] += coupling.after.numpy().reshape(-1)
    try:
        factor = scipy.linalg.cholesky_banded(band, overwrite_ab=True, lower=True, check_finite=False)
    except np.linalg.LinAlgError as error:
        raise NotPositive from error
    flat = right.reshape(count * width, columns).numpy()
    solved = scipy.linalg.cho_solve_banded((factor, True), flat, check_finite=False)
    return torch.from_numpy(np.ascontiguousarray(solved)).reshape(count, width, columns)
