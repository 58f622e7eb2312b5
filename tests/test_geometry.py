"""Laws of the geometry: rotations there and back, inverse transforms, cameras, cutting an image."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from manvatar.geometry import (
    crop_camera,
    inverse_rigid,
    pixel_directions,
    pixel_grid,
    project,
    rigid,
    rotation_from_vector,
    skew,
    transform,
    vector_from_rotation,
)
from manvatar.types import Camera

CAMERA = Camera(torch.tensor([700.0, 720.0]), torch.tensor([310.5, 228.0]), (640, 480))
# Angles at which one formula or another gives way: the Taylor branch, its border, half a turn.
ANGLES = (0.0, 1e-12, 1e-7, 0.99e-4, 1.01e-4, 1e-2, 1.0, 2.5, math.pi - 1e-3, math.pi - 1e-6, math.pi - 1e-9)


def axes(dtype: torch.dtype) -> Tensor:
    """Unit vectors along, between and off the coordinate axes."""
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0], dtype=dtype)] * 3)
    rows = torch.cat([signs[signs.norm(dim=1) > 0], torch.randn(20, 3, dtype=dtype)])
    return rows / rows.norm(dim=1, keepdim=True)


def poses(count: int) -> Tensor:
    return rigid(rotation_from_vector(torch.randn(count, 3, dtype=torch.float64)), torch.randn(count, 3).double())


def test_skew_is_the_cross_product() -> None:
    a, b = torch.randn(2, 7, 3, dtype=torch.float64)
    torch.testing.assert_close((skew(a) @ b[..., None])[..., 0], torch.linalg.cross(a, b))


@pytest.mark.parametrize("angle", ANGLES)
def test_rotations_are_the_matrix_exponential(angle: float) -> None:
    w = axes(torch.float64) * angle
    rotation = rotation_from_vector(w)
    torch.testing.assert_close(rotation, torch.linalg.matrix_exp(skew(w)), rtol=0, atol=1e-13)
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).double().expand_as(rotation), rtol=0, atol=1e-13)


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 3e-6)])
def test_rotation_vectors_come_back(angle: float, dtype: torch.dtype, tolerance: float) -> None:
    w = axes(dtype) * angle
    rotation = rotation_from_vector(w)
    again = vector_from_rotation(rotation)
    assert again.dtype == dtype and float(again.norm(dim=-1).max()) <= math.pi + tolerance
    torch.testing.assert_close(rotation_from_vector(again), rotation, rtol=0, atol=tolerance)
    if angle < 3:  # at half a turn both directions of the axis are the same rotation, and rounding picks one
        torch.testing.assert_close(again, w, rtol=1e-6, atol=tolerance)


def test_half_turns_have_an_angle_of_pi() -> None:
    axis = axes(torch.float64)
    half_turn = 2 * axis[:, :, None] * axis[:, None] - torch.eye(3).double()
    w = vector_from_rotation(half_turn)
    torch.testing.assert_close(w.norm(dim=1), torch.full((len(w),), math.pi).double())
    torch.testing.assert_close((w * axis).sum(1).abs(), torch.full((len(w),), math.pi).double())


def test_gradient_at_no_rotation() -> None:
    """d R(w) b / d w at zero is -skew(b); a naive norm would give NaN."""
    b = torch.tensor([0.3, -2.0, 1.1], dtype=torch.float64)
    zero = torch.zeros(3, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda w: rotation_from_vector(w) @ b, zero)
    torch.testing.assert_close(jacobian, -skew(b))
    there_and_back = torch.autograd.functional.jacobian(lambda w: vector_from_rotation(rotation_from_vector(w)), zero)
    torch.testing.assert_close(there_and_back, torch.eye(3).double())


@pytest.mark.parametrize("angle", [0.0, 1e-6, 0.5, 3.0])
def test_gradients_against_finite_differences(angle: float) -> None:
    w = (axes(torch.float64)[-4:] * angle).requires_grad_()
    assert torch.autograd.gradcheck(rotation_from_vector, (w,), eps=1e-7, atol=1e-6)
    assert torch.autograd.gradcheck(lambda v: vector_from_rotation(rotation_from_vector(v)), (w,), eps=1e-7, atol=1e-6)


def test_inverse_undoes_and_chains() -> None:
    a, b = poses(6), poses(6)
    points = torch.randn(6, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(inverse_rigid(a), torch.linalg.inv(a))
    torch.testing.assert_close(transform(inverse_rigid(a), transform(a, points)), points)
    torch.testing.assert_close(transform(a @ b, points), transform(a, transform(b, points)))
    homogeneous = torch.cat([points, torch.ones_like(points[..., :1])], -1)
    torch.testing.assert_close(transform(a, points), (homogeneous @ a.mT)[..., :3])


def test_broadcasting_over_leading_dimensions() -> None:
    w = torch.randn(2, 4, 3, dtype=torch.float64)
    many = rotation_from_vector(w)
    assert many.shape == (2, 4, 3, 3) and vector_from_rotation(many).shape == (2, 4, 3)
    torch.testing.assert_close(many[1, 2], rotation_from_vector(w[1, 2]))
    torch.testing.assert_close(inverse_rigid(rigid(many, w))[1, 2], torch.linalg.inv(rigid(many[1, 2], w[1, 2])))


def test_directions_are_the_inverse_of_projection() -> None:
    pixels = torch.rand(50, 2, dtype=torch.float64) * torch.tensor([640.0, 480.0])
    directions = pixel_directions(CAMERA, pixels)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(50).double())
    distance = torch.rand(50, 1, dtype=torch.float64) * 3 + 0.1
    torch.testing.assert_close(project(CAMERA, directions * distance), pixels, rtol=0, atol=1e-9)


def test_signs_of_the_camera_frame() -> None:
    """x to the right, y down, z forward: the centre of the picture is straight ahead."""
    points = torch.tensor([[0.0, 0.0, 1.0], [0.1, 0.0, 1.0], [0.0, 0.1, 1.0], [0.1, 0.1, 2.0]])
    expected = [[310.5, 228.0], [380.5, 228.0], [310.5, 300.0], [345.5, 264.0]]
    torch.testing.assert_close(project(CAMERA, points), torch.tensor(expected))


def test_pixel_centres_lie_at_halves() -> None:
    grid = pixel_grid((4, 3))
    assert grid.shape == (3, 4, 2)
    assert grid[0, 0].tolist() == [0.5, 0.5] and grid[2, 3].tolist() == [3.5, 2.5] and grid[1, 0].tolist() == [0.5, 1.5]
    torch.testing.assert_close(grid.mean((0, 1)), torch.tensor([2.0, 1.5]))  # the image's centre


@pytest.mark.parametrize(("left", "top", "scale"), [(0.0, 0.0, 1.0), (-40.0, 17.0, 0.5), (120.0, -8.0, 1.75)])
def test_camera_of_a_crop(left: float, top: float, scale: float) -> None:
    """Projecting with the camera of the crop is projecting, then cutting, then scaling."""
    points = torch.randn(30, 3) * 0.2 + torch.tensor([0.0, 0.0, 1.0])
    camera = crop_camera(CAMERA, left, top, scale, (100, 80))
    expected = (project(CAMERA, points) - torch.tensor([left, top])) * scale
    torch.testing.assert_close(project(camera, points), expected, rtol=1e-5, atol=1e-3)
    assert camera.size_px == (100, 80) and CAMERA.size_px == (640, 480)
