"""Node grids: trilinear interpolation that is exact at the nodes.

A grid holds nodes, not cells: node 0 lies on the lower bound of the box and node n-1 on the upper one, on every
level, so that all levels agree about where a point is.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from manvatar.types import Box


def node_counts(box: Box, voxel_m: float) -> tuple[int, int, int]:
    """Nodes along (z, y, x) for voxels of about ``voxel_m`` metres."""
    extent = (box.upper_m - box.lower_m).tolist()
    x, y, z = (max(2, round(length / voxel_m) + 1) for length in extent)
    return z, y, x


def sample_nodes(
    grid: Float[Tensor, "batch z y x channels"],
    unit_points: Float[Tensor, "samples 3"],
    frame: Int[Tensor, "samples"] | None = None,
) -> Float[Tensor, "samples channels"]:
    """Trilinear samples at points given as fractions (x, y, z) of the box, clamped to it.

    ``frame`` chooses the grid of the batch for each point (0 everywhere when None). Differentiable in the grid and
    in the points.
    """
    _, z_nodes, y_nodes, x_nodes, channels = grid.shape
    scale = torch.tensor([x_nodes - 1, y_nodes - 1, z_nodes - 1], device=grid.device, dtype=unit_points.dtype)
    position = unit_points.clamp(0, 1) * scale
    lower = torch.minimum(position.detach().floor(), scale - 1)
    fx, fy, fz = (position - lower).unbind(-1)
    gx, gy, gz = 1 - fx, 1 - fy, 1 - fz
    x, y, z = lower.long().unbind(-1)
    first = (z * y_nodes + y) * x_nodes + x
    if frame is not None:
        first = first + frame * (z_nodes * y_nodes * x_nodes)
    row, layer = x_nodes, x_nodes * y_nodes
    corner = torch.tensor([0, 1, row, row + 1, layer, layer + 1, layer + row, layer + row + 1], device=grid.device)
    a, b, c, d = gy * gz, fy * gz, gy * fz, fy * fz
    weight = torch.stack([gx * a, fx * a, gx * b, fx * b, gx * c, fx * c, gx * d, fx * d], -1)
    return functional.embedding_bag(
        first[:, None] + corner, grid.reshape(-1, channels), mode="sum", per_sample_weights=weight
    )
