"""A smooth map of the picture that brings landmarks onto others: where a model's texture lies before it has learnt.

The best affine map of all points, plus what is left of each point, spread around it with a Gaussian weight (Nadaraya
and Watson's kernel regression): near the face the map follows the landmarks, far from it the affine part alone is left.
Everything is differentiable, and has the same bits every time.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from manvatar.baselines.bilayer.generators import identity_grid

_COARSE_PX = 64  # the map is smooth, so it is made this large and scaled up
_REACH = 0.06  # standard deviation of the weights; 1 = half the image
_FADE = 0.3  # weight of "nothing is left" everywhere


def aligning_affine(
    points: Float[Tensor, "images points 2"], targets: Float[Tensor, "#images points 2"]
) -> Float[Tensor, "images 2 3"]:
    """The affine map that brings ``points`` nearest to ``targets``, least squares."""
    # By the moments: LAPACK's solver does not give the same bits every time.
    middle, center = points.mean(1), targets.mean(1)
    spread = points - middle[:, None]
    second = (spread[:, :, :, None] * spread[:, :, None]).sum(1)
    mixed = ((targets - center[:, None])[:, :, :, None] * spread[:, :, None]).sum(1)
    linear = (mixed[:, :, :, None] * inverse_2x2(second)[:, None]).sum(2)
    shift = center - (linear * middle[:, None]).sum(2)
    return torch.cat([linear, shift[:, :, None]], -1)


def aligning_grid(
    points: Float[Tensor, "images points 2"], targets: Float[Tensor, "#images points 2"], size_px: int
) -> Float[Tensor, "images size size 2"]:
    """Where each pixel goes when ``points`` go to ``targets``; (x, y), -1 and 1 on the borders of the image."""
    affine = aligning_affine(points, targets)
    left = targets - applied(affine, points)
    coarse = min(_COARSE_PX, size_px)
    grid = identity_grid(coarse, points.device, points.dtype)[0].view(-1, 2)
    squared = (grid[None, :, None] - points[:, None]).square().sum(-1)
    weight = (squared * (-0.5 / _REACH**2)).exp()
    moved = (weight @ left) / (weight.sum(-1, keepdim=True) + _FADE)
    moved = moved.view(len(points), coarse, coarse, 2).permute(0, 3, 1, 2)
    if coarse != size_px:
        moved = functional.interpolate(moved, (size_px, size_px), mode="bilinear", align_corners=False)
    fine = identity_grid(size_px, points.device, points.dtype)[0].view(1, -1, 2)
    return applied(affine, fine).view(len(points), size_px, size_px, 2) + moved.permute(0, 2, 3, 1)


def inverse_affine(affine: Float[Tensor, "images 2 3"]) -> Float[Tensor, "images 2 3"]:
    """The map back."""
    back = inverse_2x2(affine[:, :, :2])
    return torch.cat([back, -(back * affine[:, None, :, 2]).sum(2, keepdim=True)], -1)


def inverse_2x2(matrix: Float[Tensor, "images 2 2"]) -> Float[Tensor, "images 2 2"]:
    a, b, c, d = matrix.flatten(1).unbind(1)
    return torch.stack([d, -b, -c, a], -1).view(-1, 2, 2) / (a * d - b * c)[:, None, None]


def applied(affine: Float[Tensor, "images 2 3"], points: Float[Tensor, "#images points 2"]) -> Tensor:
    """The points as an affine map has them."""
    x, y = points[..., :1], points[..., 1:]
    return x * affine[:, None, :, 0] + y * affine[:, None, :, 1] + affine[:, None, :, 2]
