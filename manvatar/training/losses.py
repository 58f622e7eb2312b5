"""Terms of the training loss. All are means and differentiable in their first argument."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def charbonnier(rgb: Float[Tensor, "rays 3"], target: Float[Tensor, "rays 3"], epsilon: float) -> Float[Tensor, ""]:
    """A smooth L1: ``sqrt(d^2 + epsilon^2) - epsilon`` (Charbonnier et al. 1994)."""
    return ((rgb - target).square() + epsilon**2).sqrt().mean() - epsilon


def total_variation(grid: Float[Tensor, "batch z y x channels"]) -> Float[Tensor, ""]:
    """Mean squared difference of neighbouring nodes, summed over the three axes."""
    return sum((grid.diff(dim=axis).square().mean() for axis in (1, 2, 3)), grid.new_zeros(()))
