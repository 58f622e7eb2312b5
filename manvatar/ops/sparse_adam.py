"""One step of Adam, in place, that leaves alone what has no gradient.

    m <- m + (1 - beta1) (g - m)
    v <- beta2 v + (1 - beta2) g^2
    p <- p - rate / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps)

Source: Kingma and Ba, "Adam", ICLR 2015, algorithm 1. A row is a slice along the last axis: one node of a grid. Most
nodes see no sample in an iteration. Rows whose gradient is all zero are left as they are, moments included (as Mueller
et al. 2022, instant-ngp, leave entries of their hash tables): a node does not drift on by its momentum while nobody
looks, and of most of the memory only the gradient is read. ``t`` counts steps of the optimiser, not of the row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manvatar.ops._library import has_op, require

_BUILT = has_op("sparse_adam_")


@torch.no_grad()
def sparse_adam_(
    parameter: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    rate: float,
    beta1: float,
    beta2: float,
    eps: float,
    step: int,
    skip_zero_rows: bool = True,
    scale: Tensor | None = None,
) -> None:
    """Update ``parameter`` and its moments, and set ``grad`` to zero, in one pass. Not differentiable; deterministic.

    Args:
        parameter: any shape, float32 or float64, dense, as are the next three.
        grad: not-a-number is no zero: it reaches the parameter, where it will be noticed.
        exp_avg: m. exp_avg_sq: v.
        beta1: in [0, 1), as is ``beta2``.
        eps: >= 0, beside the root of the corrected second moment.
        step: t, from 1.
        skip_zero_rows: False updates every row, as ``torch.optim.Adam`` does.
        scale: (2,) float64, where ``parameter`` is: :func:`adam_scale`, which then counts instead of ``rate`` and
            ``step``. Work that is recorded once and replayed reads it anew each time.

    Raises:
        RuntimeError: arguments that do not fit, in words.
        UserError: the native library is not built.
    """
    require("sparse_adam_", _BUILT, parameter)
    torch.ops.manvatar.sparse_adam_(
        parameter, grad, exp_avg, exp_avg_sq, rate, beta1, beta2, eps, step, skip_zero_rows, scale
    )
    torch.autograd.graph.increment_version([parameter, grad, exp_avg, exp_avg_sq])


def adam_scale(rate: float, beta1: float, beta2: float, step: int) -> tuple[float, float]:
    """What step and learning rate amount to: rate / (1 - beta1^t) and 1 / sqrt(1 - beta2^t)."""
    return rate / (1 - beta1**step), (1 - beta2**step) ** -0.5


@torch.no_grad()
def sparse_adam_reference_(
    parameter: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    rate: float,
    beta1: float,
    beta2: float,
    eps: float,
    step: int,
    skip_zero_rows: bool = True,
) -> None:
    """:func:`sparse_adam_` in plain PyTorch, any float dtype and device."""
    rows = (grad != 0).any(-1, keepdim=True) | (not skip_zero_rows)
    mean = exp_avg + (1 - beta1) * (grad - exp_avg)
    square = beta2 * exp_avg_sq + (1 - beta2) * grad**2
    change = rate / (1 - beta1**step) * mean / ((square / (1 - beta2**step)).sqrt() + eps)
    parameter.copy_(torch.where(rows, parameter - change, parameter))
    exp_avg.copy_(torch.where(rows, mean, exp_avg))
    exp_avg_sq.copy_(torch.where(rows, square, exp_avg_sq))
    grad.zero_()


def _fake(
    parameter: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    rate: float,
    beta1: float,
    beta2: float,
    eps: float,
    step: int,
    skip_zero_rows: bool,
    scale: Tensor | None = None,
) -> None:
    return None


if _BUILT:
    torch.library.register_fake("manvatar::sparse_adam_", _fake)
