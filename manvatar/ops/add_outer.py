"""Sums of grids with coefficients, and their gradient added in place.

    blend:       grids[b] = mean + sum_k coefficients[b, k] basis[k]
    add_outer_:  target[k] += sum_b weights[b, k] rows[b]

The second is the gradient of the first by the basis. Most nodes of a grid see no sample in an iteration; their rows
are zero in all items of the batch and are left out, so that the many grids of a basis are only touched where there is
something to add.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from manvatar.ops._gradients import place_for_gradient
from manvatar.ops._library import has_op, require

_BUILT = has_op("add_outer_")


@torch.no_grad()
def add_outer_(
    target: Float[Tensor, "targets count width"],
    weights: Float[Tensor, "batch targets"],
    rows: Float[Tensor, "batch count width"],
) -> None:
    """Add ``weights.T @ rows`` to ``target`` in place, leaving out rows that are zero in the whole batch.

    float32 or float64. Not differentiable; deterministic, whatever the number of threads.

    Args:
        target: dense.
        rows: not-a-number is no zero.

    Raises:
        RuntimeError: shapes, dtypes or devices that do not fit, in words.
        UserError: the native library is not built.
    """
    require("add_outer_", _BUILT, target)
    torch.ops.manvatar.add_outer_(target, weights, rows)
    torch.autograd.graph.increment_version(target)


@torch.no_grad()
def add_outer_reference_(
    target: Float[Tensor, "targets count width"],
    weights: Float[Tensor, "batch targets"],
    rows: Float[Tensor, "batch count width"],
) -> None:
    """:func:`add_outer_` in plain PyTorch, any float dtype and device."""
    target += torch.einsum("bk,bnc->knc", weights, rows)


def blend(
    mean: Float[Tensor, "*grid channels"],
    bases: Sequence[Tensor],
    coefficients: Sequence[Tensor],
    *,
    in_place: bool = False,
) -> Float[Tensor, "batch *grid channels"]:
    """``mean`` plus each basis times its coefficients, for every item of the batch.

    Args:
        mean: at least two axes.
        bases: one or more, each (K, *grid, channels).
        coefficients: one (batch, K) for each basis.
        in_place: a mean or basis that is a leaf and has a dense ``grad`` already gets its gradient added to it while
            ``backward`` runs, and nothing is handed on to autograd. Only for ``backward``; ``torch.autograd.grad`` then
            finds no gradient of it.

    Differentiable in everything, once.
    """
    return _Blend.apply(in_place, mean, *bases, *coefficients)


class _Blend(torch.autograd.Function):
    """Forward is left to PyTorch's matrix products, which are as good as can be; arguments are a flat list."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, in_place: bool, mean: Tensor, *rest: Tensor) -> Tensor:
        ctx.in_place = in_place
        ctx.save_for_backward(mean, *rest)
        bases, coefficients = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        grids = mean.flatten()
        for basis, weights in zip(bases, coefficients, strict=True):
            grids = torch.addmm(grids, weights, basis.flatten(1))
        return grids.view(len(coefficients[0]), *mean.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        mean, *rest = ctx.saved_tensors
        bases, coefficients = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        _, *needed = ctx.needs_input_grad
        rows = grad.contiguous().view(len(grad), -1, grad.shape[-1])
        ones = grad.new_ones(len(grad), 1)
        to_grids = [
            _gradient(grid, weights, rows, ctx.in_place) if wanted else None
            for grid, weights, wanted in zip((mean, *bases), (ones, *coefficients), needed, strict=False)
        ]
        to_coefficients = [
            rows.flatten(1) @ basis.flatten(1).T if wanted else None
            for basis, wanted in zip(bases, needed[1 + len(bases) :], strict=True)
        ]
        return (None, *to_grids, *to_coefficients)


def _gradient(grid: Tensor, weights: Tensor, rows: Tensor, in_place: bool) -> Tensor | None:
    place, is_there = place_for_gradient(grid, in_place)
    add_outer_(place.view(weights.shape[1], *rows.shape[1:]), weights, rows)
    return None if is_there else place


def _fake(target: Tensor, weights: Tensor, rows: Tensor) -> None:
    return None


if _BUILT:
    torch.library.register_fake("manvatar::add_outer_", _fake)
