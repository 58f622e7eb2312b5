"""The ``fast`` field: per-expression motion grids summed by coefficients, one canonical grid pyramid, 2-layer MLPs.

After ManVatar / AvatarMAV (Xu et al. 2023, arXiv 2211.13206). Differences from the paper, each kept because it was
measured to pay (docs/LOG.md): the motion grids hold displacements directly, so that no MLP stands before the canonical
lookup; a few extra motion channels go straight to the MLPs, so that what a displacement cannot express (teeth that
appear, wrinkles) still follows the coefficients; canonical levels have equal voxels on all axes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from manvatar.errors import UserError
from manvatar.fields.grids import node_counts
from manvatar.geometry import inverse_rigid, mean_pose, vector_from_rotation
from manvatar.ops import blend, sample_warped
from manvatar.ops.mlp_backends import mlp_backend
from manvatar.types import Box, FieldValues

POSE_COUNT = 6  # components of a head pose that motion grids follow: rotation vector, translation


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
    mlp_backend: str = "auto"  # see manvatar.ops.mlp_backends

    def __post_init__(self) -> None:
        if len(self.canonical_voxels_m) != len(self.canonical_features) or not self.canonical_voxels_m:
            raise UserError("canonical_voxels_m and canonical_features must list the same levels, at least one")
        if min(self.motion_voxel_m, *self.canonical_voxels_m) < 0.0005:
            raise UserError("motion_voxel_m and canonical_voxels_m must be 0.0005 (half a millimetre) or more")
        if self.hidden % 8 or not 8 <= self.hidden <= 128:
            raise UserError(f"hidden = {self.hidden} is not possible; give a multiple of 8 from 8 to 128")
        if self.ambient_features < 0 or min(self.canonical_features) < 1:
            raise UserError("ambient_features must be 0 or more and canonical_features 1 or more")
        mlp_backend(self.mlp_backend)


class FastField(nn.Module):
    """A :class:`manvatar.types.Field`; all parameters are differentiable.

    Parameters:
        motion_mean: (Z, Y, X, 3 + ambient) the motion grid at expression zero.
        motion_basis: (E, Z, Y, X, 3 + ambient) one motion grid per expression coefficient.
        pose_basis: (6, Z, Y, X, 3 + ambient) one motion grid per component of the head's pose.
        canonical: one (1, Z, Y, X, C) grid per level.

    ``mlp_backend`` may be set to another name at any time; parameters are the same for all.
    """

    def __init__(self, config: FastFieldConfig, box: Box, expression_count: int) -> None:
        super().__init__()
        self.config = config
        self.box = box
        self.mlp_backend = config.mlp_backend
        self.register_buffer("lower_m", box.lower_m.clone().float())
        self.register_buffer("extent_m", (box.upper_m - box.lower_m).float())
        self.warp_scale: list[float] = (config.displacement_scale_m / self.extent_m).tolist()
        motion_shape = (*node_counts(box, config.motion_voxel_m), 3 + config.ambient_features)
        self.motion_mean = nn.Parameter(torch.zeros(motion_shape))
        self.motion_basis = nn.Parameter(torch.zeros(expression_count, *motion_shape))
        self.pose_basis = nn.Parameter(torch.zeros(POSE_COUNT, *motion_shape))
        self.register_buffer("mean_pose", torch.eye(4))
        self.register_buffer("pose_lower", torch.full((POSE_COUNT,), -torch.inf))
        self.register_buffer("pose_upper", torch.full((POSE_COUNT,), torch.inf))
        self.canonical = nn.ParameterList(
            nn.Parameter(torch.randn(1, *node_counts(box, voxel), features) * 0.05)
            for voxel, features in zip(config.canonical_voxels_m, config.canonical_features, strict=True)
        )
        features = sum(config.canonical_features) + config.ambient_features
        self.density = TwoLayers(features, expression_count, config.hidden, 1)
        self.color = TwoLayers(features + 3, expression_count, config.hidden, 3)

    @torch.no_grad()
    def start_from(
        self,
        depth_m: Callable[[Float[Tensor, "points 3"]], Float[Tensor, "points"]],
        cam_from_head: Float[Tensor, "frames 4 4"] | None = None,
    ) -> None:
        """Begin opaque where ``depth_m`` is positive and nearly transparent where it is negative.

        The first channel of the coarsest level holds the depth, and two hidden units of the density network pass it
        on. It is a start, not a constraint: all of it is trained. Poses will be seen relative to the mean of the
        training poses ``cam_from_head``, and held within their range.
        """
        if cam_from_head is not None:
            self.mean_pose.copy_(mean_pose(cam_from_head))
            seen = self.pose_coefficients(cam_from_head, len(cam_from_head))
            self.pose_lower.copy_(seen.amin(0))
            self.pose_upper.copy_(seen.amax(0))
        grid = self.canonical[0]
        axes = [torch.linspace(0, 1, n) for n in grid.shape[1:4]]
        z, y, x = torch.meshgrid(*axes, indexing="ij")
        nodes = torch.stack([x, y, z], -1).reshape(-1, 3).to(self.lower_m) * self.extent_m + self.lower_m
        depth = depth_m(nodes.cpu()).to(grid) / self.config.canonical_voxels_m[0]
        grid[0, ..., 0] = depth.clamp(-1, 1).view(grid.shape[1:4])
        self.density.hidden.weight[:2, 0] = torch.tensor([1.0, -1.0])
        self.density.out.weight[0, :2] = torch.tensor([5.0, -5.0])

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by how they are trained: ``canonical`` and ``motion`` grids, ``mlp`` weights."""
        grids = [*self.canonical]
        motion = [self.motion_mean, self.motion_basis, self.pose_basis]
        chosen = {id(p) for p in grids + motion}
        return {"canonical": grids, "motion": motion, "mlp": [p for p in self.parameters() if id(p) not in chosen]}

    def pose_coefficients(
        self, cam_from_head: Float[Tensor, "batch 4 4"] | None, count: int
    ) -> Float[Tensor, "batch 6"]:
        """Rotation vector and shift of the head from its mean pose, in units in which typical values are about 1.

        Skin of the neck, hair and shadows follow the pose of the head, not its expression; what the 3DMM calls
        expression would otherwise be bent to explain them. Held within the range of the training poses: the grids mean
        nothing beyond it, and a camera that comes closer must not be taken for a head that moved.
        """
        if cam_from_head is None:
            return self.mean_pose.new_zeros(count, POSE_COUNT)
        relative = inverse_rigid(self.mean_pose) @ cam_from_head.to(self.mean_pose)
        pose = torch.cat([vector_from_rotation(relative[:, :3, :3]) / 0.15, relative[:, :3, 3] / 0.02], -1)
        return pose.clamp(self.pose_lower, self.pose_upper)

    def motion_grids(
        self, expression: Float[Tensor, "batch expression"], pose: Float[Tensor, "batch 6"] | None = None
    ) -> Float[Tensor, "batch z y x channels"]:
        """G(e, p) = M + sum_k e_k B_k + sum_j p_j P_j, once for each frame of the batch."""
        bases, coefficients = [self.motion_basis], [expression]
        if pose is not None:
            bases, coefficients = [*bases, self.pose_basis], [*coefficients, pose]
        return blend(self.motion_mean, bases, coefficients, in_place=True)

    def at(
        self, expression: Float[Tensor, "batch expression"], cam_from_head: Float[Tensor, "batch 4 4"] | None = None
    ) -> FastFieldAtExpressions:
        """The field with its motion grids summed for each frame of a batch; None is the mean pose."""
        return FastFieldAtExpressions(self, expression, self.pose_coefficients(cam_from_head, len(expression)))


class FastFieldAtExpressions:
    """A :class:`manvatar.types.FieldAtExpressions`: motion grids summed, networks assembled.

    ``motion`` (batch, Z, Y, X, 3 + ambient) is what regularisers look at. Both networks run as one with block-diagonal
    weights, so that the inputs are read once; the expression enters as a bias, once a frame.
    """

    def __init__(
        self, field: FastField, expression: Float[Tensor, "batch expression"], pose: Float[Tensor, "batch 6"]
    ) -> None:
        density, color = field.density, field.color
        pose = pose.to(expression)
        self.field = field
        self.mlp = mlp_backend(field.mlp_backend)
        self.motion = field.motion_grids(expression, pose)
        self.warp_scale = field.warp_scale
        self.hidden_weight = torch.cat([functional.pad(density.hidden.weight, (0, 3)), color.hidden.weight])
        scaled = expression / 3, pose / 3
        self.hidden_bias = torch.cat([density.frame_bias(*scaled), color.frame_bias(*scaled)], 1)
        self.out_weight = torch.block_diag(density.out.weight, color.out.weight)
        self.out_bias = torch.cat([density.out.bias, color.out.bias])

    def __call__(
        self,
        points_m: Float[Tensor, "samples 3"],
        directions: Float[Tensor, "samples 3"],
        frame: Int[Tensor, "samples"],
    ) -> FieldValues:
        field = self.field
        unit = (points_m - field.lower_m) / field.extent_m
        inputs = sample_warped(
            self.motion, list(field.canonical), unit, frame, directions, self.warp_scale, in_place=True
        )
        out = self.mlp(inputs, frame, self.hidden_weight, self.hidden_bias, self.out_weight, self.out_bias)
        density = functional.softplus(out[:, 0]) * field.config.density_scale_per_m
        return FieldValues(density, torch.sigmoid(out[:, 1:]))


class TwoLayers(nn.Module):
    """Parameters of one 2-layer MLP whose inputs are features of the sample and the expression of the frame."""

    def __init__(self, inputs: int, expression_count: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs, hidden)
        self.expression = nn.Linear(expression_count, hidden, bias=False)
        self.pose = nn.Linear(POSE_COUNT, hidden, bias=False)
        self.out = nn.Linear(hidden, outputs)
        nn.init.zeros_(self.expression.weight)
        nn.init.zeros_(self.pose.weight)

    def frame_bias(
        self, expression: Float[Tensor, "batch expression"], pose: Float[Tensor, "batch 6"]
    ) -> Float[Tensor, "batch hidden"]:
        """The hidden layer's bias in each frame: what expression and pose add is the same for all samples."""
        return self.expression(expression) + self.pose(pose) + self.hidden.bias
