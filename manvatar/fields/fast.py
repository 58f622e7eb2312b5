"""The ``fast`` field: per-expression motion grids summed by coefficients, one canonical grid pyramid, 2-layer MLPs.

After ManVatar / AvatarMAV (Xu et al. 2023, arXiv 2211.13206). Differences from the paper, each kept because it was
measured to pay (docs/LOG.md): the motion grids hold displacements directly, so that no MLP stands before the canonical
lookup; a few extra motion channels go straight to the MLPs, so that what a displacement cannot express (teeth that
appear, wrinkles) still follows the coefficients; canonical levels have equal voxels on all axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from manvatar.fields.grids import node_counts
from manvatar.ops import sample_grid
from manvatar.types import Box, FieldValues


@dataclass(frozen=True)
class FastFieldConfig:
    """Sizes of the ``fast`` field."""

    motion_voxel_m: float = 0.009
    ambient_features: int = 5  # motion channels beside the displacement
    canonical_voxels_m: tuple[float, ...] = (0.010, 0.005, 0.0025)
    canonical_features: tuple[int, ...] = (8, 8, 8)
    hidden: int = 64
    displacement_scale_m: float = 0.01  # displacement of a motion value of 1
    density_scale_per_m: float = 100.0


class FastField(nn.Module):
    """A :class:`manvatar.types.Field`; all parameters are differentiable.

    Parameters:
        motion_mean: (Z, Y, X, 3 + ambient) the motion grid at expression zero.
        motion_basis: (E, Z, Y, X, 3 + ambient) one motion grid per expression coefficient.
        canonical: one (1, Z, Y, X, C) grid per level.
    """

    def __init__(self, config: FastFieldConfig, box: Box, expression_count: int) -> None:
        super().__init__()
        self.config = config
        self.box = box
        self.register_buffer("lower_m", box.lower_m.clone().float())
        self.register_buffer("extent_m", (box.upper_m - box.lower_m).float())
        motion_shape = (*node_counts(box, config.motion_voxel_m), 3 + config.ambient_features)
        self.motion_mean = nn.Parameter(torch.zeros(motion_shape))
        self.motion_basis = nn.Parameter(torch.zeros(expression_count, *motion_shape))
        self.canonical = nn.ParameterList(
            nn.Parameter(torch.randn(1, *node_counts(box, voxel), features) * 0.05)
            for voxel, features in zip(config.canonical_voxels_m, config.canonical_features, strict=True)
        )
        inputs = sum(config.canonical_features) + config.ambient_features
        self.density_hidden = nn.Linear(inputs, config.hidden)
        self.density_expression = nn.Linear(expression_count, config.hidden, bias=False)
        self.density_out = nn.Linear(config.hidden, 1)
        self.color_hidden = nn.Linear(inputs + 3, config.hidden)
        self.color_expression = nn.Linear(expression_count, config.hidden, bias=False)
        self.color_out = nn.Linear(config.hidden, 3)
        for layer in (self.density_expression, self.color_expression):
            nn.init.zeros_(layer.weight)

    def motion_grids(self, expression: Float[Tensor, "batch expression"]) -> Float[Tensor, "batch z y x channels"]:
        """G(e) = M + sum_k e_k B_k, once for each frame of the batch."""
        flat = self.motion_basis.flatten(1)
        return (self.motion_mean.flatten() + expression @ flat).view(len(expression), *self.motion_mean.shape)

    def forward(
        self,
        points_m: Float[Tensor, "samples 3"],
        directions: Float[Tensor, "samples 3"],
        expression: Float[Tensor, "batch expression"],
        frame: Int[Tensor, "samples"],
    ) -> FieldValues:
        config = self.config
        unit = (points_m - self.lower_m) / self.extent_m
        motion = sample_grid(self.motion_grids(expression), unit, frame)
        canonical_unit = unit + motion[:, :3] * (config.displacement_scale_m / self.extent_m)
        features = [sample_grid(grid, canonical_unit) for grid in self.canonical]
        features = torch.cat([*features, motion[:, 3:]], -1)
        scaled = expression / 3
        hidden = functional.leaky_relu(self.density_hidden(features) + self.density_expression(scaled)[frame], 0.01)
        density = functional.softplus(self.density_out(hidden)[:, 0]) * config.density_scale_per_m
        inputs = torch.cat([features, directions], -1)
        hidden = functional.leaky_relu(self.color_hidden(inputs) + self.color_expression(scaled)[frame], 0.01)
        return FieldValues(density, torch.sigmoid(self.color_out(hidden)))
