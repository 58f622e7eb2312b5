"""Terms of the training loss. All are means and differentiable in their first argument."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from manvatar.training.config import LossConfig
from manvatar.types import Rendering


def image_loss(
    rendering: Rendering,
    rgb: Float[Tensor, "rays 3"],
    alpha: Float[Tensor, "rays"] | None,
    config: LossConfig,
    image_pixels: int,
) -> Float[Tensor, ""]:
    """What the rendered rays say: the photometric term, and that of the opacity where it has a weight.

    Args:
        rgb, alpha: what they should be; ``alpha`` may be None where the opacity has no weight.
        image_pixels: of one image, for ``config.mean_over_image``.
    """
    loss = photometric(rendering.rgb, rgb, config.charbonnier_epsilon)
    if config.mean_over_image:
        loss = loss * (len(rgb) / image_pixels)
    if config.opacity:
        loss = loss + config.opacity * (rendering.opacity - alpha).abs().mean()
    return loss


def motion_loss(field_here: Any, config: LossConfig) -> Float[Tensor, ""] | float:
    """The regulariser of motion grids, of one frame of the batch: the grids of all frames are sums of the same bases.

    Args:
        field_here: a field at expressions with ``motion`` grids, or any other where both weights are 0.
    """
    if not (config.displacement or config.motion_smoothness):
        return 0.0
    one = field_here.motion[:1]
    return config.displacement * one[..., :3].abs().mean() + config.motion_smoothness * total_variation(one)


def sample_loss(field_here: Any, config: LossConfig) -> Float[Tensor, ""] | float:
    """The regulariser of the displacements of single samples: their mean length.

    Args:
        field_here: a field at expressions with a ``displacement`` of the last samples, or any other where the weight
            is 0.
    """
    if not config.sample_displacement:
        return 0.0
    return config.sample_displacement * field_here.displacement.norm(dim=1).mean()


def photometric(rgb: Float[Tensor, "rays 3"], target: Float[Tensor, "rays 3"], epsilon: float) -> Float[Tensor, ""]:
    """:func:`charbonnier`, or with ``epsilon`` 0 its limit, the mean absolute difference."""
    return charbonnier(rgb, target, epsilon) if epsilon else (rgb - target).abs().mean()


def charbonnier(rgb: Float[Tensor, "rays 3"], target: Float[Tensor, "rays 3"], epsilon: float) -> Float[Tensor, ""]:
    """A smooth L1: ``sqrt(d^2 + epsilon^2) - epsilon`` (Charbonnier et al. 1994)."""
    return ((rgb - target).square() + epsilon**2).sqrt().mean() - epsilon


def total_variation(grid: Float[Tensor, "batch z y x channels"]) -> Float[Tensor, ""]:
    """Mean squared difference of neighbouring nodes, summed over the three axes."""
    return sum((grid.diff(dim=axis).square().mean() for axis in (1, 2, 3)), grid.new_zeros(()))
