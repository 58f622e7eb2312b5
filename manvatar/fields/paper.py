"""The ``paper`` field: ManVatar, published as AvatarMAV (Xu et al. 2023, arXiv 2211.13206), as it is written there.

One grid of motion features for a frame, G(e) = M + sum_k e_k B_k; its trilinear samples at node strides 1, 2 and 4,
embedded in sines and cosines, give a displacement; the canonical grid is sampled in the same way at the displaced
point; two small networks turn the features, the view and the expression into density and colour. Every symbol, and
where the authors' released code differs from the paper, stands in docs/paper.md.

Points outside a grid see zeros, as in the released code: features fade to 0 within one node spacing of the border.
The authors' lengths are units of their Basel model, about 10 cm; ``PaperFieldConfig`` says where that model lies in the
head frame, in metres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from manvatar.errors import UserError
from manvatar.ops import embed, sample_grid
from manvatar.ops.mlp_backends import mlp_backend
from manvatar.types import Box, FieldValues

Corner = tuple[float, ...]  # x, y, z

_EXPRESSION_DIVISOR = 3.0  # the networks see e / 3
_SAMPLES_AT_ONCE = 1 << 17  # without gradients; bounds the memory of rendering


@dataclass(frozen=True)
class PaperFieldConfig:
    """Sizes of the paper's field, and where it lies in the head frame."""

    expressions: int = 32  # the first so many coefficients are used
    motion_cells: int = 32  # along each axis; there is one node more
    motion_features: int = 2
    canonical_cells: int = 64
    canonical_features: int = 4
    levels: int = 3  # node strides 1, 2, 4, ...
    octaves: int = 4  # of the sines and cosines: 1, 2, 4, 8
    hidden: int = 128
    displacement_scale: float = 0.1  # model units for a network output of 1
    motion_lower: Corner = (-1.1, -1.1, -1.0)  # model units
    motion_upper: Corner = (1.1, 1.4, 0.9)
    canonical_lower: Corner = (-1.2, -1.1, -1.8)
    canonical_upper: Corner = (1.2, 1.6, 0.9)
    unit_m: float = 0.1  # metres of one model unit
    origin: Corner = (0.0, 0.29, 0.13)  # of the head frame (the midpoint of the eye corners), in model units
    density_scale_per_m: float = 100.0  # density of a network output of 1
    exact_sampling: bool = True  # False: node positions as in the released code (align_corners=False)
    mlp_backend: str = "native"  # see manvatar.ops.mlp_backends

    def __post_init__(self) -> None:
        sizes = (self.expressions, self.motion_features, self.canonical_features, self.levels)
        if min(sizes) < 1 or self.octaves < 0:
            raise UserError("expressions, motion_features, canonical_features and levels must be 1 or more")
        coarsest = 2 ** (self.levels - 1)
        for name in ("motion_cells", "canonical_cells"):
            cells = getattr(self, name)
            if cells < 1 or cells % coarsest:
                raise UserError(f"{name} = {cells} is not possible; give a multiple of {coarsest}")
        if self.hidden % 16 or not 16 <= self.hidden <= 256:
            raise UserError(f"hidden = {self.hidden} is not possible; give a multiple of 16 from 16 to 256")
        for name in ("unit_m", "density_scale_per_m"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name} = {getattr(self, name)} is not possible; give a positive number")
        for name in ("motion_lower", "motion_upper", "canonical_lower", "canonical_upper", "origin"):
            if len(getattr(self, name)) != 3:
                raise UserError(f"{name} must be three numbers: x, y and z")
        for part in ("motion", "canonical"):
            lower, upper = getattr(self, f"{part}_lower"), getattr(self, f"{part}_upper")
            if not all(low < high for low, high in zip(lower, upper, strict=True)):
                raise UserError(f"{part}_upper must exceed {part}_lower along each axis")
        mlp_backend(self.mlp_backend)

    def box(self, dtype: torch.dtype = torch.float32) -> Box:
        """The canonical box in the head frame."""
        corners = self.canonical_lower, self.canonical_upper, self.origin
        lower, upper, origin = (torch.tensor(corner, dtype=dtype) for corner in corners)
        return Box((lower - origin) * self.unit_m, (upper - origin) * self.unit_m)


class PaperField(nn.Module):
    """A :class:`manvatar.types.Field`; all parameters are differentiable. It does not look at the head's pose.

    Parameters:
        motion_mean: M, (C, Z, Y, X).
        motion_basis: B, (E, C, Z, Y, X).
        canonical: A, (C, Z, Y, X).
        displacement, density, color: the networks; their expression inputs come last.

    ``mlp_backend`` may be set to another name at any time; parameters are the same for all.

    Args:
        box: not used: the paper's box is fixed, and :attr:`box` says which it is.
        expression_count: coefficients an expression has; those beyond ``config.expressions`` have no effect.
    """

    def __init__(self, config: PaperFieldConfig, box: Box, expression_count: int) -> None:
        super().__init__()
        self.config = config
        self.box = config.box()
        self.mlp_backend = config.mlp_backend
        self.expression_count = min(config.expressions, expression_count)
        motion, canonical = (config.motion_cells + 1,) * 3, (config.canonical_cells + 1,) * 3
        self.motion_mean = nn.Parameter(torch.zeros(config.motion_features, *motion))
        self.motion_basis = nn.Parameter(torch.zeros(self.expression_count, config.motion_features, *motion))
        self.canonical = nn.Parameter(torch.zeros(config.canonical_features, *canonical))
        terms = 1 + 2 * config.octaves
        motion_inputs = config.levels * config.motion_features * terms
        features = config.levels * config.canonical_features * terms
        self.displacement = TwoLayers(motion_inputs, config.hidden, 3)
        self.density = TwoLayers(features + self.expression_count, config.hidden, 1)
        self.color = TwoLayers(features + 3 * terms + self.expression_count, config.hidden, 3)
        self.register_buffer("color_columns", together(features // terms, 3, terms), persistent=False)
        self._start_visible()

    @torch.no_grad()
    def _start_visible(self) -> None:
        """Turn the density network's sign so that the neutral head begins visible.

        Its rectified output would otherwise be 0 everywhere for about every second seed, and stay so: no gradient.
        Both signs are equally likely in the initial distribution, so it is still a draw from it.
        """
        zeros = self.canonical.new_zeros(1, self.config.levels * self.config.canonical_features)
        nothing = functional.pad(embed(zeros, self.config.octaves), (0, self.expression_count))
        if float(self.density(nothing)) <= 0:
            self.density.out.weight.neg_()
            self.density.out.bias.neg_()

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by how they are trained: ``canonical`` and ``motion`` grids, ``mlp`` weights."""
        networks = (self.displacement, self.density, self.color)
        return {
            "canonical": [self.canonical],
            "motion": [self.motion_mean, self.motion_basis],
            "mlp": [parameter for network in networks for parameter in network.parameters()],
        }

    def at(
        self, expression: Float[Tensor, "batch expression"], cam_from_head: Float[Tensor, "batch 4 4"] | None = None
    ) -> PaperFieldAtExpressions:
        """The field with its motion grids summed for each frame of a batch."""
        return PaperFieldAtExpressions(self, expression[:, : self.expression_count])


class PaperFieldAtExpressions:
    """A :class:`manvatar.types.FieldAtExpressions`: motion grids summed, what the expression adds to the networks too.

    ``displacement`` (samples, 3) is the displacement network's output d at the points of the last call, unscaled: what
    the regulariser looks at. None before the first call, and of the last part only where no gradient is asked for.
    """

    def __init__(self, field: PaperField, expression: Float[Tensor, "batch expression"]) -> None:
        config = field.config
        self.field = field
        self.mlp = mlp_backend(field.mlp_backend)
        self.displacement: Float[Tensor, "samples 3"] | None = None
        basis = field.motion_basis
        grids = torch.addmm(field.motion_mean.flatten(), expression, basis.flatten(1))
        self.motion = pyramid(grids.view(len(expression), *basis.shape[1:]), config.levels)
        self.canonical = pyramid(field.canonical[None], config.levels)
        scaled = expression / _EXPRESSION_DIVISOR
        self.displacement_network = field.displacement.at(expression[:, :0])
        self.density_network = field.density.at(scaled)
        weight, *others = field.color.at(scaled)
        self.color_network = (weight[:, field.color_columns], *others)

    def __call__(
        self,
        points_m: Float[Tensor, "samples 3"],
        directions: Float[Tensor, "samples 3"],
        frame: Int[Tensor, "samples"],
    ) -> FieldValues:
        if torch.is_grad_enabled() or len(points_m) <= _SAMPLES_AT_ONCE:
            return self._values(points_m, directions, frame)
        split = (t.split(_SAMPLES_AT_ONCE) for t in (points_m, directions, frame))
        parts = [self._values(*part) for part in zip(*split, strict=True)]
        return FieldValues(torch.cat([p.density_per_m for p in parts]), torch.cat([p.rgb for p in parts]))

    def density(self, points_m: Float[Tensor, "samples 3"], frame: Int[Tensor, "samples"]) -> Float[Tensor, "samples"]:
        """The density alone."""
        return self._density(self._features(points_m, frame), frame)

    def _values(self, points_m: Tensor, directions: Tensor, frame: Tensor) -> FieldValues:
        features = self._features(points_m, frame)
        seen = torch.cat([features, directions], -1)
        color = self.mlp(seen, frame, *self.color_network, self.field.config.octaves)
        return FieldValues(self._density(features, frame), torch.sigmoid(color))

    def _features(self, points_m: Tensor, frame: Tensor) -> Float[Tensor, "samples features"]:
        """Canonical features where the displacement network moves the points to."""
        config = self.field.config
        points = points_m / config.unit_m + points_m.new_tensor(config.origin)
        motion = self._sampled(self.motion, points, config.motion_lower, config.motion_upper, frame)
        self.displacement = self.mlp(motion, frame, *self.displacement_network, config.octaves)
        moved = points.add(self.displacement, alpha=config.displacement_scale)
        return self._sampled(self.canonical, moved, config.canonical_lower, config.canonical_upper, None)

    def _density(self, features: Tensor, frame: Tensor) -> Float[Tensor, "samples"]:
        config = self.field.config
        raw = self.mlp(features, frame, *self.density_network, config.octaves)[:, 0]
        return functional.relu(raw) * config.density_scale_per_m

    def _sampled(
        self, levels: list[Tensor], points: Tensor, lower: Corner, upper: Corner, frame: Tensor | None
    ) -> Float[Tensor, "samples features"]:
        """Features of all levels at points in model units."""
        low, high = points.new_tensor(lower), points.new_tensor(upper)
        unit = (points - low) / (high - low)
        exact = self.field.config.exact_sampling
        return torch.cat([sample_grid(level, bordered(unit, level.shape[1] - 2, exact), frame) for level in levels], -1)


class TwoLayers(nn.Module):
    """Linear, LeakyReLU, Linear; the last inputs may be the same for all samples of a frame."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs, hidden)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, inputs: Float[Tensor, "samples inputs"]) -> Float[Tensor, "samples outputs"]:
        return self.out(functional.leaky_relu(self.hidden(inputs), 0.01))

    def at(self, per_frame: Float[Tensor, "batch some"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weights for :func:`manvatar.ops.mlp`: what the inputs of a frame add is a bias of its hidden layer."""
        weight = self.hidden.weight
        own = weight.shape[1] - per_frame.shape[1]
        bias = per_frame @ weight[:, own:].T + self.hidden.bias
        return weight[:, :own].contiguous(), bias, self.out.weight, self.out.bias


def together(first: int, second: int, terms: int) -> Int[Tensor, "columns"]:
    """Where the terms of values embedded together stand if ``first`` and ``second`` of them are embedded apart."""
    apart = torch.arange((first + second) * terms)
    a, b = apart[: first * terms].view(terms, first), apart[first * terms :].view(terms, second)
    return torch.cat([a, b], 1).flatten()


def pyramid(grids: Float[Tensor, "batch channels z y x"], levels: int) -> list[Tensor]:
    """Every 1st, 2nd, 4th, ... node of the grids, with a layer of zeros around: (batch, z, y, x, channels) each."""
    strided = (grids[:, :, :: 2**level, :: 2**level, :: 2**level] for level in range(levels))
    return [functional.pad(grid, (1,) * 6).permute(0, 2, 3, 4, 1).contiguous() for grid in strided]


def bordered(unit: Float[Tensor, "samples 3"], nodes: int, exact: bool) -> Float[Tensor, "samples 3"]:
    """Where points of a box lie in a grid that has a border of one more node on every side, as fractions of it.

    Args:
        unit: fractions of the box, any range.
        nodes: of the grid without its border, along each axis.
        exact: the first and last node lie on the bounds of the box. Otherwise they lie half a spacing inside, and the
            spacing is smaller: what the released code's sampling does (``align_corners=False``), which makes levels of
            different strides disagree about where their nodes are.
    """
    position = unit * (nodes - 1) + 1 if exact else unit * nodes + 0.5
    return position / (nodes + 1)
