"""Conversions for PyTorch3D against our own projection; they need no PyTorch3D."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from manvatar.errors import UserError
from manvatar.geometry import project, rigid, rotation_from_vector, transform
from manvatar.interop import pytorch3d as interop
from manvatar.types import Camera

SIZES = [(64, 64), (80, 48), (48, 80)]


def some_camera(size_px: tuple[int, int]) -> Camera:
    width, height = size_px
    return Camera(torch.tensor([150.0, 140.0]), torch.tensor([0.45 * width, 0.6 * height]), size_px)


def some_poses(count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Heads about half a metre away, turned by up to 30 degrees from facing the camera."""
    facing = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=dtype))
    turn = rotation_from_vector((torch.rand(count, 3, dtype=dtype) - 0.5) * 0.6)
    shift = torch.tensor([0.01, -0.02, 0.5], dtype=dtype) + 0.03 * torch.randn(count, 3, dtype=dtype)
    return rigid(turn @ facing, shift)


@pytest.mark.parametrize("size_px", SIZES)
def test_their_formula_shows_points_where_ours_does(size_px: tuple[int, int]) -> None:
    """x_ndc = f X / Z + p, with rows times R plus T: PyTorch3D's definition of a perspective camera."""
    camera, poses = some_camera(size_px), some_poses(4)
    points = torch.randn(4, 30, 3, dtype=torch.float64) * 0.08
    rotation, translation = interop.view_from_pose(poses)
    seen = points @ rotation + translation[:, None]
    focal, principal = interop.ndc_intrinsics(camera)
    ndc = focal.double() * seen[..., :2] / seen[..., 2:] + principal.double()
    expected = project(camera, transform(poses, points))
    torch.testing.assert_close(interop.pixels_from_ndc(ndc, size_px), expected, rtol=1e-6, atol=1e-4)
    torch.testing.assert_close(seen[..., 2], transform(poses, points)[..., 2])


def test_axes() -> None:
    """A point to the right of and below the axis has negative x and y there, in NDC and in the camera frame."""
    rotation, translation = interop.view_from_pose(torch.eye(4)[None])
    seen = torch.tensor([0.1, 0.2, 1.0]) @ rotation[0] + translation[0]
    assert seen.tolist() == pytest.approx([-0.1, -0.2, 1.0])
    corners = torch.tensor([[0.0, 0.0], [80.0, 48.0], [40.0, 24.0]])
    ndc = interop.ndc_from_pixels(corners, (80, 48))
    assert ndc.flatten().tolist() == pytest.approx([80 / 48, 1, -80 / 48, -1, 0, 0])
    assert torch.linalg.det(rotation).item() == pytest.approx(1)


@pytest.mark.parametrize("size_px", SIZES)
def test_and_back(size_px: tuple[int, int]) -> None:
    camera, poses = some_camera(size_px), some_poses(5)
    torch.testing.assert_close(interop.pose_from_view(*interop.view_from_pose(poses)), poses)
    again = interop.camera_from_ndc(*interop.ndc_intrinsics(camera), size_px)
    torch.testing.assert_close(again.focal_px, camera.focal_px)
    torch.testing.assert_close(again.center_px, camera.center_px)
    assert again.size_px == size_px


def test_gradients_reach_the_pose() -> None:
    poses = some_poses(2).requires_grad_()
    torch.autograd.gradcheck(interop.view_from_pose, (poses,))


class Cameras:
    """What ``from_cameras`` reads of PyTorch3D's cameras."""

    def __init__(self, camera: Camera, poses: Tensor, in_ndc: bool, **other: object) -> None:
        self.R, self.T = interop.view_from_pose(poses)
        focal, center = interop.ndc_intrinsics(camera) if in_ndc else (camera.focal_px, camera.center_px)
        self.focal_length, self.principal_point = focal.expand(len(poses), 2), center.expand(len(poses), 2)
        self.image_size = torch.tensor([camera.size_px[::-1]])
        self.K = None
        self.in_ndc, self.is_perspective = lambda: in_ndc, lambda: True
        vars(self).update(other)


@pytest.mark.parametrize("in_ndc", [False, True])
def test_cameras_and_back(in_ndc: bool) -> None:
    camera, poses = some_camera((80, 48)), some_poses(3, torch.float32)
    got, got_poses = interop.from_cameras(Cameras(camera, poses, in_ndc))
    torch.testing.assert_close(got.focal_px, camera.focal_px)
    torch.testing.assert_close(got.center_px, camera.center_px)
    torch.testing.assert_close(got_poses, poses)
    assert got.size_px == (80, 48)


def test_cameras_we_cannot_take() -> None:
    camera, poses = some_camera((80, 48)), some_poses(3, torch.float32)
    with pytest.raises(UserError, match="Cameras of PyTorch3D cannot be converted; give PerspectiveCameras"):
        interop.from_cameras(Cameras(camera, poses, False, is_perspective=lambda: False))
    with pytest.raises(UserError, match="matrix K"):
        interop.from_cameras(Cameras(camera, poses, False, K=torch.eye(4)))
    with pytest.raises(UserError, match="no image_size; give size_px"):
        interop.from_cameras(Cameras(camera, poses, False, image_size=None))
    with pytest.raises(UserError, match="focal lengths of these PyTorch3D cameras differ"):
        interop.from_cameras(Cameras(camera, poses, False, focal_length=torch.tensor([[9.0], [9.0], [8.0]])))


def test_where_pytorch3d_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("transforms", "renderer", "structures"):
        monkeypatch.setitem(sys.modules, f"pytorch3d.{part}", None)  # import then raises
    camera, poses = some_camera((80, 48)), some_poses(1, torch.float32)
    vertices, triangles = torch.rand(1, 3, 3), torch.tensor([[0, 1, 2]])
    for call in (
        lambda: interop.to_transform(poses),
        lambda: interop.to_cameras(camera, poses),
        lambda: interop.to_meshes(vertices, triangles),
        lambda: interop.rasterize(vertices, triangles, camera, poses),
    ):
        with pytest.raises(UserError, match="PyTorch3D is not installed .* pip install"):
            call()
