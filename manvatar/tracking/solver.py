"""The linear step: a matrix of frame blocks, tied in time by diagonal bands, with an arrow of shared columns.

    [ A   B ] [ x ]     [ g ]        A: a dense block of x columns for each frame, plus diagonal coupling of every
    [ B^T C ] [ y ] = - [ h ]           frame with the next and the one after it (second differences in time)

Without coupling A is block diagonal and everything is batched. With it A is a band of half width 2x: frames are taken
in twos, which makes it block tridiagonal, and factored block by block. (LAPACK's banded Cholesky does the same work,
but its many tiny calls spin in a threaded BLAS: 0.5 s where this takes 0.03 s.) The shared columns are eliminated by
their Schur complement ``C - B^T A^-1 B``, of which only half a solve is needed: with ``A = M M^T`` and
``W = M^-1 B`` it is ``C - W^T W``.
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
    factor = _Blocks(frame) if coupling is None else _Band(frame, coupling)
    if border is None:
        return Step(factor.backward(factor.forward(-gradient[..., None]))[..., 0], None, None)
    half = factor.forward(torch.cat([border, -gradient[..., None]], 2))
    flat = half.flatten(0, 1)
    product = flat.T @ flat
    schur = corner - product[:-1, :-1]
    shared = torch.cholesky_solve((-shared_gradient - product[:-1, -1])[:, None], _cholesky(schur))[:, 0]
    step = factor.backward(half[..., -1:] - half[..., :-1] @ shared[:, None])[..., 0]
    return Step(step, shared, schur)


def _cholesky(matrix: Tensor) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(matrix)
    if bool((info != 0).any()) or not bool(torch.isfinite(factor).all()):
        raise NotPositive
    return factor


class _Blocks:
    """``M`` of a block diagonal matrix."""

    def __init__(self, frame: Float[Tensor, "f x x"]) -> None:
        self._factor = _cholesky(frame)

    def forward(self, right: Float[Tensor, "f x c"]) -> Float[Tensor, "f x c"]:
        """``M^-1 right``."""
        return torch.linalg.solve_triangular(self._factor, right, upper=False)

    def backward(self, right: Float[Tensor, "f x c"]) -> Float[Tensor, "f x c"]:
        """``M^-T right``."""
        return torch.linalg.solve_triangular(self._factor.mT, right, upper=True)


class _Band:
    """``M`` of a block tridiagonal matrix of pairs of frames: ``L_k`` on its diagonal, ``K_k^T`` to the left of it."""

    def __init__(self, frame: Float[Tensor, "f x x"], coupling: Coupling) -> None:
        self._count, self._width = coupling.own.shape
        blocks = _pairs_of_frames(frame, coupling)
        following, after = (_padded(x[..., None])[..., 0] for x in (coupling.next, coupling.after))
        self._factors: list[Tensor] = []
        self._links: list[Tensor] = []
        for k in range(len(blocks)):
            self._factors.append(_cholesky(blocks[k]))
            if k + 1 < len(blocks):
                upper = _to_next_pair(after[2 * k], after[2 * k + 1], following[2 * k + 1])
                link = torch.linalg.solve_triangular(self._factors[k], upper, upper=False)  # K_k = L_k^-1 U_k
                self._links.append(link)
                blocks[k + 1].addmm_(link.T, link, alpha=-1)

    def forward(self, right: Float[Tensor, "f x c"]) -> Float[Tensor, "f x c"]:
        """``M^-1 right``."""
        blocks = self._by_pairs(right)
        solved: list[Tensor] = []
        for k, factor in enumerate(self._factors):
            value = blocks[k] if k == 0 else torch.addmm(blocks[k], self._links[k - 1].T, solved[-1], alpha=-1)
            solved.append(torch.linalg.solve_triangular(factor, value, upper=False))
        return self._by_frames(solved)

    def backward(self, right: Float[Tensor, "f x c"]) -> Float[Tensor, "f x c"]:
        """``M^-T right``."""
        solved = list(self._by_pairs(right))
        for k in reversed(range(len(solved))):
            if k + 1 < len(solved):
                solved[k] = torch.addmm(solved[k], self._links[k], solved[k + 1], alpha=-1)
            solved[k] = torch.linalg.solve_triangular(self._factors[k].T, solved[k], upper=True)
        return self._by_frames(solved)

    def _by_pairs(self, value: Tensor) -> Tensor:
        return _padded(value).reshape(-1, 2 * self._width, value.shape[2])

    def _by_frames(self, blocks: list[Tensor]) -> Tensor:
        return torch.stack(blocks).reshape(-1, self._width, blocks[0].shape[1])[: self._count]


def _padded(value: Float[Tensor, "f x c"]) -> Float[Tensor, "even x c"]:
    """With a row of zeros at the end where the number of frames is odd."""
    return torch.nn.functional.pad(value, (0, 0, 0, 0, 0, len(value) % 2))


def _pairs_of_frames(frame: Float[Tensor, "f x x"], coupling: Coupling) -> Float[Tensor, "pairs w w"]:
    """Diagonal blocks of frames 2k and 2k + 1. An odd last frame's partner is the identity and touches nothing."""
    count, width = coupling.own.shape
    result = frame.new_zeros((count + 1) // 2, 2 * width, 2 * width)
    first, second = slice(0, width), slice(width, 2 * width)
    result[:, first, first] = frame[0::2]
    result[: count // 2, second, second] = frame[1::2]
    if count % 2:
        result[-1, second, second] = torch.eye(width, dtype=frame.dtype)
    own, following = (_padded(x[..., None]).reshape(-1, 2, width) for x in (coupling.own, coupling.next))
    result.diagonal(dim1=1, dim2=2).add_(own.flatten(1))
    result[:, first, second].diagonal(dim1=1, dim2=2).copy_(following[:, 0])
    result[:, second, first].diagonal(dim1=1, dim2=2).copy_(following[:, 0])
    return result


def _to_next_pair(
    first: Float[Tensor, "x"], second: Float[Tensor, "x"], across: Float[Tensor, "x"]
) -> Float[Tensor, "w w"]:
    """The block between a pair of frames (rows) and the next: each with its like, the second with the first."""
    width = len(first)
    result = first.new_zeros(2 * width, 2 * width)
    result.diagonal()[:width] = first
    result.diagonal()[width:] = second
    result[width:, :width].diagonal().copy_(across)
    return result
