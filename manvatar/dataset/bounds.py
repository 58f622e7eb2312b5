"""The box of the head frame that a field fills."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from manvatar.dataset.hull import hull_votes, widened
from manvatar.types import Box, Camera

# Where a head with hair can be at all, metres from the midpoint of the eye corners. A camera in front never sees the
# back of the skull; the depth is what silhouettes of turned heads need.
_WIDEST_LOWER_M = (-0.20, -0.22, -0.20)
_WIDEST_UPPER_M = (0.20, 0.24, 0.06)


def head_bounds(
    alphas: Float[Tensor, "frames height width"],
    camera: Camera,
    cam_from_head: Float[Tensor, "frames 4 4"],
    agreement: float = 0.9,
    cell_m: float = 0.008,
) -> Box:
    """The smallest box around the visual hull of some frames' mattes, with a margin of one cell."""
    axes = [
        torch.arange(low + cell_m / 2, high, cell_m) for low, high in zip(_WIDEST_LOWER_M, _WIDEST_UPPER_M, strict=True)
    ]
    points = torch.cartesian_prod(*axes)
    inside = points[hull_votes(points, widened(alphas), camera, cam_from_head) >= agreement]
    if len(inside) == 0:
        return Box(torch.tensor(_WIDEST_LOWER_M), torch.tensor(_WIDEST_UPPER_M))
    return Box(inside.amin(0) - 1.5 * cell_m, inside.amax(0) + 1.5 * cell_m)
