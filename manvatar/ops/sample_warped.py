"""Samples of a pyramid of grids at points that a motion grid displaces.

A motion grid has three channels of displacement d and further, ambient ones a. With both read at x, for x's frame,

    x' = x + scale * d        features = [level_1(x'), ..., level_n(x'), a, tail]

all samples being those of :func:`manvatar.ops.sample_grid`. It is that op several times over and a concatenation; in
one pass the points are located once, nothing in between is written to memory, and the gradient of the features need not
be taken apart. ``tail`` is whatever else stands in a row of features, such as the direction of view.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from manvatar.ops._gradients import place_for_gradient
from manvatar.ops._library import has_op, require
from manvatar.ops.sample_grid import sample_grid_reference

_BUILT = has_op("sample_warped")


def sample_warped(
    motion: Float[Tensor, "batch z y x motion"],
    levels: Sequence[Tensor],
    unit_points: Float[Tensor, "samples 3"],
    frame: Int64[Tensor, "samples"],
    tail: Float[Tensor, "samples tail"],
    scale: Sequence[float],
    *,
    in_place: bool = False,
) -> Float[Tensor, "samples features"]:
    """Features of displaced points; formulas at the head of this module.

    Args:
        motion: 3 to 64 channels; float32 or float64, as is everything but ``frame``.
        levels: 1 to 8 grids (1, z, y, x, channels) of any size.
        unit_points: (x, y, z) as fractions of the box of all grids, clamped to it; NaN gives NaN.
        frame: which motion grid each point reads. Checked on the CPU; on CUDA not: that would wait for the device.
        tail: any number of columns, also none.
        scale: what a displacement of 1 is as a fraction of the box, along (x, y, z).
        in_place: a level that is a leaf and has a ``grad`` already gets its gradient added to it while ``backward``
            runs, and nothing is handed on to autograd: it spares a tensor of the size of the grid in each iteration.
            Only for ``backward``; ``torch.autograd.grad`` then finds no gradient of such a level.

    Differentiable in ``motion``, ``levels``, ``unit_points`` and ``tail``, once. The gradient is deterministic on the
    CPU, whatever the number of threads; on CUDA that of the grids is summed in any order.

    Raises:
        RuntimeError: shapes, dtypes, devices or frames that do not fit, in words.
        UserError: the native library is not built.
    """
    require("sample_warped", _BUILT, motion)
    op = torch.ops.manvatar.sample_warped
    return op(motion, list(levels), unit_points, frame, tail, list(scale), in_place)[0]


def sample_warped_reference(
    motion: Float[Tensor, "batch z y x motion"],
    levels: Sequence[Tensor],
    unit_points: Float[Tensor, "samples 3"],
    frame: Int64[Tensor, "samples"],
    tail: Float[Tensor, "samples tail"],
    scale: Sequence[float],
    *,
    in_place: bool = False,  # noqa: ARG001 - autograd adds gradients up by itself
) -> Float[Tensor, "samples features"]:
    """:func:`sample_warped` in plain PyTorch: any float dtype and device, any number of derivatives."""
    values = sample_grid_reference(motion, unit_points, frame)
    warped = unit_points + values[:, :3] * unit_points.new_tensor(scale)
    return torch.cat([*(sample_grid_reference(level, warped) for level in levels), values[:, 3:], tail], 1)


def _fake(
    motion: Tensor,
    levels: list[Tensor],
    unit_points: Tensor,
    frame: Tensor,
    tail: Tensor,
    scale: list[float],
    in_place: bool,
) -> tuple[Tensor, Tensor]:
    columns = sum(level.shape[4] for level in levels) + motion.shape[4] - 3 + tail.shape[1]
    return motion.new_empty(unit_points.shape[0], columns), motion.new_empty(unit_points.shape)


def _fake_backward(
    grad: Tensor,
    motion: Tensor,
    levels: list[Tensor],
    unit_points: Tensor,
    frame: Tensor,
    warped: Tensor,
    scale: list[float],
    grad_levels: list[Tensor],
    for_motion: bool,
    for_points: bool,
) -> tuple[Tensor, Tensor]:
    return motion.new_empty(motion.shape if for_motion else 0), motion.new_empty(unit_points.shape if for_points else 0)


def _keep(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    motion, levels, unit_points, frame, tail, ctx.scale, ctx.in_place = inputs
    ctx.tail = tail.shape[1]
    ctx.save_for_backward(motion, unit_points, frame, output[1], *levels)


def _backward(
    ctx: torch.autograd.function.FunctionCtx, grad: Tensor, _: Tensor
) -> tuple[Tensor | list[Tensor | None] | None, ...]:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "sample_warped() can be differentiated once; use sample_warped_reference() for higher derivatives"
        )
    motion, unit_points, frame, warped, *levels = ctx.saved_tensors
    for_motion, for_levels, for_points, _, for_tail, *_ = ctx.needs_input_grad
    results: list[Tensor | None] = [None] * len(levels)
    buffers = []
    if any(for_levels):
        for index, (level, needed) in enumerate(zip(levels, for_levels, strict=True)):
            place, is_there = place_for_gradient(level, ctx.in_place and needed)
            buffers.append(place)
            results[index] = place if needed and not is_there else None
    op = torch.ops.manvatar.sample_warped_backward
    to_motion, to_points = op(
        grad, motion, levels, unit_points, frame, warped, ctx.scale, buffers, for_motion, for_points
    )
    to_tail = grad[:, grad.shape[1] - ctx.tail :] if for_tail else None
    return to_motion if for_motion else None, results, to_points if for_points else None, None, to_tail, None, None


if _BUILT:
    torch.library.register_fake("manvatar::sample_warped", _fake)
    torch.library.register_fake("manvatar::sample_warped_backward", _fake_backward)
    torch.library.register_autograd("manvatar::sample_warped", _backward, setup_context=_keep)
