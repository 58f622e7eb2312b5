"""The linear step: a matrix of frame blocks, tied in time by diagonal bands, with an arrow of shared columns.

    [ A   B ] [ x ]     [ g ]        A: a dense block of x columns for each frame, plus diagonal coupling of every
    [ B^T C ] [ y ] = - [ h ]           frame with the next and the one after it (second differences in time)

Without coupling A is block diagonal and everything is batched. With it A is a band of half width 2x: frames are taken
in twos, which makes it block tridiagonal, and factored block by block. (LAPACK's banded Cholesky does the same work,
but its many tiny calls spin in a threaded BLAS: 0.5 s where this takes 0.03 s.) The shared columns are eliminated by
their Schur complement ``C - B^T A^-1 B``.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    """Block tridiagonal Cholesky over pairs of frames: ``D_k`` on the diagonal, ``U_k`` to the right of it."""
    count, width, columns = right.shape
    diagonal, upper = _pairs_of_frames(frame, coupling)
    right = torch.nn.functional.pad(right, (0, 0, 0, 0, 0, count % 2)).reshape(-1, 2 * width, columns)
    factors, links, solved = [], [], []
    block, value = diagonal[0], right[0]
    for k in range(len(diagonal)):
        factor, info = torch.linalg.cholesky_ex(block)
        if int(info) != 0:
            raise NotPositive
        value = torch.linalg.solve_triangular(factor, value, upper=False)
        factors.append(factor)
        solved.append(value)
        if k + 1 < len(diagonal):
            link = torch.linalg.solve_triangular(factor, upper[k], upper=False)  # L_k^-1 U_k
            links.append(link)
            block = torch.addmm(diagonal[k + 1], link.T, link, alpha=-1)
            value = torch.addmm(right[k + 1], link.T, value, alpha=-1)
    for k in reversed(range(len(diagonal))):
        value = solved[k] if k + 1 == len(diagonal) else torch.addmm(solved[k], links[k], solved[k + 1], alpha=-1)
        solved[k] = torch.linalg.solve_triangular(factors[k].T, value, upper=True)
    result = torch.stack(solved).reshape(-1, width, columns)[:count]
    if not bool(torch.isfinite(result).all()):
        raise NotPositive
    return result


def _pairs_of_frames(frame: Tensor, coupling: Coupling) -> tuple[Tensor, Tensor]:
    """Diagonal blocks (p, 2x, 2x) of frames 2k and 2k + 1, and their blocks with frames 2k + 2 and 2k + 3.

    An odd last frame gets a partner that is the identity and touches nothing.
    """
    count, width = coupling.own.shape
    odd = count % 2
    total = torch.nn.functional.pad(frame + torch.diag_embed(coupling.own), (0, 0, 0, 0, 0, odd))
    if odd:
        total[-1] = torch.eye(width, dtype=frame.dtype)
    following, after = (
        torch.diag_embed(torch.nn.functional.pad(x, (0, 0, 0, odd))) for x in (coupling.next, coupling.after)
    )
    first, second = slice(0, width), slice(width, 2 * width)
    diagonal = torch.zeros(len(total) // 2, 2 * width, 2 * width, dtype=frame.dtype)
    upper = torch.zeros_like(diagonal)
    diagonal[:, first, first], diagonal[:, second, second] = total[0::2], total[1::2]
    diagonal[:, first, second] = following[0::2]
    diagonal[:, second, first] = following[0::2]
    upper[:, first, first], upper[:, second, second] = after[0::2], after[1::2]
    upper[:, second, first] = following[1::2]
    return diagonal, upper
