"""A coarse grid of the head box that says where samples are worth taking.

Two densities are kept in each cell: the highest seen over expressions (decides what is empty) and the lowest
(decides what is surely opaque, so that nothing behind it needs a sample). A closed mouth is opaque in one frame and
open in another; the two bounds keep both right.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from manvatar.rendering.density import density_at
from manvatar.types import Box, Field


class OccupancyGrid(nn.Module):
    """Cells of about ``cell_m`` metres over a box. State is all buffers: it travels with checkpoints and avatars.

    Attributes:
        highest: (Z, Y, X) decaying maximum of density over expressions and positions, 1/m.
        lowest: (Z, Y, X) decaying minimum, 1/m.
        allowed: (Z, Y, X) cells that may be occupied at all (the visual hull).
    """

    highest: Tensor
    lowest: Tensor
    allowed: Tensor

    def __init__(self, box: Box, cell_m: float = 0.004) -> None:
        super().__init__()
        self.box = box
        extent = box.upper_m - box.lower_m
        cells = (extent / cell_m).ceil().to(torch.int64).clamp_min(2)
        self.cells_xyz: tuple[int, int, int] = (int(cells[0]), int(cells[1]), int(cells[2]))
        self.mean_side_m = float(self.cell_size_m().mean())
        shape = self.cells_xyz[::-1]
        self.register_buffer("highest", torch.full(shape, torch.inf))
        self.register_buffer("lowest", torch.full(shape, torch.inf))
        self.register_buffer("allowed", torch.ones(shape, dtype=torch.bool))

    def cell_size_m(self) -> Float[Tensor, "3"]:
        return (self.box.upper_m - self.box.lower_m) / torch.tensor(self.cells_xyz)

    def cell_index(self, points_m: Float[Tensor, "*batch 3"]) -> tuple[Tensor, Bool[Tensor, "*batch"]]:
        """Flat index of the cell of each point (clamped to the border) and whether the point is inside the box."""
        lower, upper = self.box.lower_m.to(points_m), self.box.upper_m.to(points_m)
        unit = (points_m - lower) / (upper - lower)
        inside = ((unit >= 0) & (unit < 1)).all(-1)
        x_cells, y_cells, z_cells = self.cells_xyz
        cells = (unit * torch.tensor(self.cells_xyz, device=points_m.device)).floor().to(torch.int64)
        x = cells[..., 0].clamp(0, x_cells - 1)
        y = cells[..., 1].clamp(0, y_cells - 1)
        z = cells[..., 2].clamp(0, z_cells - 1)
        return (z * y_cells + y) * x_cells + x, inside

    def cell_centers_m(self) -> Float[Tensor, "cells 3"]:
        """Centres of all cells, in the order of the flat index."""
        axes = [
            (torch.arange(n, device=self.highest.device) + 0.5) / n * (upper - lower) + lower
            for n, lower, upper in zip(
                self.cells_xyz, self.box.lower_m.tolist(), self.box.upper_m.tolist(), strict=True
            )
        ]
        z, y, x = torch.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
        return torch.stack([x, y, z], -1).reshape(-1, 3)

    @torch.no_grad()
    def update(
        self,
        field: Field,
        expressions: Float[Tensor, "batch expression"],
        generator: torch.Generator,
        decay: float = 0.9,
        fraction: float = 1.0,
        cam_from_head: Float[Tensor, "batch 4 4"] | None = None,
    ) -> None:
        """Evaluate the field once in (a random ``fraction`` of) the allowed cells and fold the result in.

        Each cell is probed at a random point and with a random row of ``expressions``, so that over several updates
        both bounds cover the cell and the expressions (the scheme of Mueller et al. 2022, instant-ngp, appendix C).
        """
        candidates, drawn_on = self.allowed.flatten().nonzero()[:, 0], generator.device
        if fraction < 1:
            keep = torch.rand(len(candidates), generator=generator, device=drawn_on).to(candidates.device) < fraction
            candidates = candidates[keep]
        if len(candidates) == 0:
            return
        x_cells, y_cells, _ = self.cells_xyz
        cells = torch.stack(
            [candidates % x_cells, candidates // x_cells % y_cells, candidates // (x_cells * y_cells)], -1
        )
        jitter = torch.rand(cells.shape, generator=generator, device=drawn_on).to(candidates.device)
        points = (cells + jitter) * self.cell_size_m().to(jitter) + self.box.lower_m.to(jitter)
        frame = torch.randint(len(expressions), (len(points),), generator=generator, device=drawn_on)
        frame = frame.to(candidates.device)
        order = frame.argsort(stable=True)  # fields like runs of one frame
        candidates, points, frame = candidates[order], points[order], frame[order]
        density = density_at(field.at(expressions, cam_from_head), points, frame)
        highest, lowest = self.highest.flatten(), self.lowest.flatten()
        first = torch.isinf(highest[candidates])
        old_high = torch.where(first, density, highest[candidates] * decay)
        highest[candidates] = torch.maximum(old_high, density)
        # The minimum may rise again, so that one thin moment does not switch termination off for ever.
        lowest[candidates] = torch.minimum(lowest[candidates] / decay + 1.0, density)
        self.highest.copy_(highest.view_as(self.highest))
        self.lowest.copy_(lowest.view_as(self.lowest))

    def occupied(self, threshold_per_m: float) -> Bool[Tensor, "z y x"]:
        """Allowed cells whose highest density exceeds the threshold."""
        return (self.highest > threshold_per_m) & self.allowed
