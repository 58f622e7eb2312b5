"""First pose of every frame, in closed form.

Weak perspective (POS: DeMenthon and Davis, "Model-based object pose in 25 lines of code", 1995): image points are an
affine map of the mean landmarks; its two rows are scaled axes of the rotation. All frames at once; a few reweighted
rounds take outliers out.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def weak_perspective(
    points_m: Float[Tensor, "n 3"],
    target_px: Float[Tensor, "f n 2"],
    weight: Float[Tensor, "f n"],
    focal_px: float,
    rounds: int = 4,
) -> tuple[Float[Tensor, "f 3 3"], Float[Tensor, "f 3"], Float[Tensor, "f"]]:
    """Rotation, translation (metres) and scale (pixels a metre) that carry head points onto the image.

    Args:
        points_m: landmarks of the mean face, head frame.
        target_px: positions from the image centre; those with weight 0 are ignored.
        weight: at least four positive ones a frame, not all in a plane.
        focal_px: turns the scale into a distance.
    """
    robust = weight
    for _ in range(rounds):
        affine, centre_m, centre_px = _affine(points_m, target_px, robust)
        left, values, right = torch.linalg.svd(affine, full_matrices=False)
        scale, two = values.mean(1), left @ right
        fitted = (points_m - centre_m[:, None]) @ (two * scale[:, None, None]).transpose(1, 2) + centre_px[:, None]
        error = torch.where(weight > 0, (fitted - target_px).norm(dim=-1), torch.nan)
        limit = 2.5 * error.nanmedian(1, keepdim=True).values.clamp_min(1e-9)
        # Cauchy weights: a point 2.5 medians off counts half.
        robust = weight / (1 + (error.nan_to_num() / limit) ** 2)
    rotation = torch.cat([two, torch.linalg.cross(two[:, 0], two[:, 1])[:, None]], 1)
    distance = focal_px / scale
    offset = torch.cat([centre_px / scale[:, None], distance[:, None]], 1)
    return rotation, offset - (rotation @ centre_m[..., None])[..., 0], scale


def _affine(
    points_m: Float[Tensor, "n 3"], target_px: Float[Tensor, "f n 2"], weight: Float[Tensor, "f n"]
) -> tuple[Float[Tensor, "f 2 3"], Float[Tensor, "f 3"], Float[Tensor, "f 2"]]:
    """Weighted least-squares affine map between centred points, and the two centres."""
    share = weight / weight.sum(1, keepdim=True)
    centre_m, centre_px = share @ points_m, (share[..., None] * target_px).sum(1)
    source, target = points_m - centre_m[:, None], target_px - centre_px[:, None]
    weighted = source * share[..., None]
    moment = weighted.transpose(1, 2) @ source
    # A trace of ridge keeps a frame whose visible points are nearly in a plane solvable.
    ridge = 1e-6 * moment.diagonal(dim1=1, dim2=2).sum(1)[:, None, None] * torch.eye(3, dtype=moment.dtype)
    return (torch.linalg.solve(moment + ridge, weighted.transpose(1, 2) @ target)).transpose(1, 2), centre_m, centre_px
