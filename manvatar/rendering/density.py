"""Only the density of a field, where its colour is not wanted."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from manvatar.types import FieldAtExpressions

_AT_ONCE = 1 << 17


@torch.no_grad()
def density_at(
    field: FieldAtExpressions, points_m: Float[Tensor, "samples 3"], frame: Int[Tensor, "samples"]
) -> Float[Tensor, "samples"]:
    """Density of a field at points, 1/m, without gradients.

    A field may have a method ``density(points_m, frame)`` that costs less than its colour; otherwise it is asked for
    both, as seen from the front.
    """
    parts = zip(points_m.split(_AT_ONCE), frame.split(_AT_ONCE), strict=True)
    if hasattr(field, "density"):
        return torch.cat([field.density(*part) for part in parts])
    front = torch.tensor([0.0, 0.0, -1.0], device=points_m.device)
    return torch.cat([field(points, front.expand(len(points), 3), rows).density_per_m for points, rows in parts])
