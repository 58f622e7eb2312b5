"""Trilinear samples of a grid of nodes.

A grid is (batch, z, y, x, channels). It holds nodes, not cells: along an axis of n nodes the unit coordinate u is at
u (n - 1), so that node 0 lies on the lower bound and node n - 1 on the upper one, on every level of a pyramid alike
(``align_corners=True`` of ``torch.nn.functional.grid_sample``). Points outside [0, 1] take the value at the nearest
point of the box; the derivative by a clamped coordinate is 0.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from manvatar.ops._library import has_op, register, require

_BUILT = has_op("sample_grid")


def sample_grid(
    grid: Float[Tensor, "batch z y x channels"],
    unit_points: Float[Tensor, "samples 3"],
    frame: Int64[Tensor, "samples"] | None = None,
) -> Float[Tensor, "samples channels"]:
    """Sample a grid of the batch at each point.

    Args:
        grid: at least 2 nodes along z, y and x; float32 or float64.
        unit_points: (x, y, z) as fractions of the box, clamped to it; the dtype of the grid. NaN gives NaN.
        frame: which grid of the batch each point samples; None = the first. Checked on the CPU; on CUDA not, since
            that would wait for the device.

    Differentiable in ``grid`` and ``unit_points``, once. The gradient is deterministic on the CPU, whatever the number
    of threads; on CUDA that of the grid is summed in any order. It is fastest with 4 or 8 channels.

    Raises:
        RuntimeError: shapes, dtypes, devices or frames that do not fit, in words.
        UserError: the native library is not built.
    """
    require("sample_grid", _BUILT, grid)
    return torch.ops.manvatar.sample_grid(grid, unit_points, frame)


def sample_grid_reference(
    grid: Float[Tensor, "batch z y x channels"],
    unit_points: Float[Tensor, "samples 3"],
    frame: Int64[Tensor, "samples"] | None = None,
) -> Float[Tensor, "samples channels"]:
    """:func:`sample_grid` in plain PyTorch: any float dtype and device, any number of derivatives."""
    nodes = torch.tensor(grid.shape[3:0:-1], device=grid.device)  # (x, y, z)
    position = unit_points.clamp(0, 1) * (nodes - 1).to(grid)
    lower = position.detach().nan_to_num(0).long().minimum(nodes - 2)
    fraction = position - lower
    batch = torch.zeros_like(lower[:, 0]) if frame is None else frame

    values = grid.new_zeros(len(unit_points), grid.shape[4])
    for corner in range(8):
        step = torch.tensor([corner & 1, corner >> 1 & 1, corner >> 2], device=grid.device)
        weight = torch.where(step.bool(), fraction, 1 - fraction).prod(1)
        x, y, z = (lower + step).unbind(1)
        values = values + weight[:, None] * grid[batch, z, y, x]
    return values


def _fake(grid: Tensor, unit_points: Tensor, frame: Tensor | None) -> Tensor:
    return grid.new_empty(unit_points.shape[0], grid.shape[4])


def _fake_backward(
    grad: Tensor, grid: Tensor, unit_points: Tensor, frame: Tensor | None, for_grid: bool, for_points: bool
) -> tuple[Tensor, Tensor]:
    return grid.new_empty(grid.shape if for_grid else 0), grid.new_empty(unit_points.shape if for_points else 0)


def _keep(
    ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor
) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    for_grid, for_points, _ = ctx.needs_input_grad
    grads = torch.ops.manvatar.sample_grid_backward(grad, *ctx.saved_tensors, for_grid, for_points)
    return grads[0] if for_grid else None, grads[1] if for_points else None, None


if _BUILT:
    register("sample_grid", _fake, _fake_backward, _keep, _backward)
