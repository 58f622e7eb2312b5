"""Closed-form poses."""

from __future__ import annotations

import math

import torch

from manvatar.geometry import rotation_from_vector, vector_from_rotation
from manvatar.tracking.initialisation import weak_perspective

FACING = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
FOCAL_PX = 900.0


def _scene(frames: int = 6, points: int = 20) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    shape = 0.05 * torch.randn(points, 3, dtype=torch.float64)
    rotation = rotation_from_vector(0.3 * torch.randn(frames, 3, dtype=torch.float64)) @ FACING
    translation = torch.tensor([0.02, -0.03, 1.2], dtype=torch.float64).expand(frames, 3)
    return shape, rotation, translation


def _angles_deg(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.rad2deg(vector_from_rotation(a @ b.transpose(1, 2)).norm(dim=1))


def test_exact_for_a_scaled_orthographic_camera() -> None:
    shape, rotation, translation = _scene()
    scale = FOCAL_PX / translation[:, 2]
    target = (shape @ rotation.transpose(1, 2) + translation[:, None])[..., :2] * scale[:, None, None]
    found, moved, size = weak_perspective(shape, target, torch.ones(6, 20, dtype=torch.float64), FOCAL_PX)
    assert float(_angles_deg(found, rotation).max()) < 1e-3  # the ridge bends it by this much
    torch.testing.assert_close(size, scale, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(moved[:, :2], translation[:, :2], rtol=0.0, atol=1e-5)
    # An orthographic camera has no distance: any within the depth of the head is as good.
    assert float((moved[:, 2] - translation[:, 2]).abs().max()) < 0.05


def test_near_enough_under_perspective_with_outliers_and_missing_points() -> None:
    shape, rotation, translation = _scene(points=40)
    points = shape @ rotation.transpose(1, 2) + translation[:, None]
    target = points[..., :2] / points[..., 2:] * FOCAL_PX
    target[:, ::9] += 60.0  # one in nine far off
    weight = torch.ones(6, 40, dtype=torch.float64)
    weight[:, 1::7] = 0
    target[:, 1::7] = 1e4
    found, moved, _ = weak_perspective(shape, target, weight, FOCAL_PX)
    assert float(_angles_deg(found, rotation).max()) < 10
    assert float((moved - translation).norm(dim=1).max()) < 0.15
    torch.testing.assert_close(torch.det(found), torch.ones(6, dtype=torch.float64))
    assert math.isfinite(float(moved.sum()))
