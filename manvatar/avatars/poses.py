"""Head poses: their mean, and turning a pose about the neck."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from manvatar.geometry import rigid, rotation_from_vector

# Where a head turns: about the top of the neck, below and behind the midpoint of the eye corners (head frame).
NECK_PIVOT_M = (0.0, -0.06, -0.09)


def turned(
    cam_from_head: Float[Tensor, "*batch 4 4"],
    yaw_rad: float | Tensor = 0.0,
    pitch_rad: float | Tensor = 0.0,
    roll_rad: float | Tensor = 0.0,
) -> Float[Tensor, "*batch 4 4"]:
    """The pose after the head has turned about the top of its neck.

    Args:
        yaw_rad: positive turns the face to the subject's left.
        pitch_rad: positive nods down.
        roll_rad: positive tips the crown to the subject's right.

    Applied in the order roll, pitch, yaw; the angles may be tensors of shape (*batch). Differentiable.
    """
    angles = [
        torch.as_tensor(angle, dtype=cam_from_head.dtype, device=cam_from_head.device)
        for angle in (pitch_rad, yaw_rad, roll_rad)
    ]
    pitch, yaw, roll = torch.broadcast_tensors(*angles)
    zero = torch.zeros_like(yaw)
    rotation = rotation_from_vector(torch.stack([zero, yaw, zero], -1))
    rotation = rotation @ rotation_from_vector(torch.stack([pitch, zero, zero], -1))
    rotation = rotation @ rotation_from_vector(torch.stack([zero, zero, roll], -1))
    pivot = torch.tensor(NECK_PIVOT_M, dtype=cam_from_head.dtype, device=cam_from_head.device)
    # p -> R (p - pivot) + pivot
    return cam_from_head @ rigid(rotation, pivot - (rotation @ pivot[:, None])[..., 0])
