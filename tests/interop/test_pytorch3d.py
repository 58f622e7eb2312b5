"""Conversions to PyTorch3D against PyTorch3D itself."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from manvatar.errors import UserError
from manvatar.face_models import load
from manvatar.geometry import crop_camera, inverse_rigid, project, rigid, rotation_from_vector, transform
from manvatar.interop import pytorch3d as interop
from manvatar.ops import rasterize
from manvatar.types import Camera, FaceModel, Track

transforms = pytest.importorskip("pytorch3d.transforms", reason="needs pytorch3d")


def some_camera() -> Camera:
    return Camera(torch.tensor([330.0, 310.0]), torch.tensor([70.0, 52.0]), (128, 96))


def some_poses(count: int) -> Tensor:
    turn = rotation_from_vector(torch.linspace(-0.4, 0.5, count)[:, None] * torch.tensor([0.4, 1.0, 0.2]))
    return rigid(turn @ torch.diag(torch.tensor([1.0, -1.0, -1.0])), torch.tensor([0.01, -0.02, 0.8]).expand(count, 3))


def some_track(model: FaceModel, count: int = 3) -> Track:
    generator = torch.Generator().manual_seed(0)
    return Track(
        camera=some_camera(),
        cam_from_head=some_poses(count),
        identity=torch.randn(len(model.identity_basis_m), generator=generator),
        expression=torch.randn(count, len(model.expression_names), generator=generator),
        landmark_offsets_m=torch.zeros(478, 3),
        residual_px=torch.zeros(count),
        valid=torch.ones(count, dtype=torch.bool),
        frame_rate_hz=25.0,
        landmark_scheme="mediapipe478",
        face_model=model.id,
        expression_names=model.expression_names,
    )


@pytest.mark.parametrize("in_ndc", [False, True])
def test_cameras_project_as_ours(in_ndc: bool) -> None:
    camera, poses = some_camera(), some_poses(4)
    points = torch.randn(4, 50, 3) * 0.08
    cameras = interop.to_cameras(camera, poses, in_ndc)
    seen = cameras.transform_points_screen(points, image_size=((96, 128),))
    torch.testing.assert_close(seen[..., :2], project(camera, transform(poses, points)), rtol=1e-5, atol=1e-3)
    depth = cameras.get_world_to_view_transform().transform_points(points)[..., 2]
    torch.testing.assert_close(depth, transform(poses, points)[..., 2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("in_ndc", [False, True])
def test_cameras_come_back(in_ndc: bool) -> None:
    camera, poses = some_camera(), some_poses(4)
    got, got_poses = interop.from_cameras(interop.to_cameras(camera, poses, in_ndc))
    torch.testing.assert_close((got.focal_px, got.center_px, got_poses), (camera.focal_px, camera.center_px, poses))
    assert got.size_px == camera.size_px


def test_transforms() -> None:
    poses, points = some_poses(4), torch.randn(4, 20, 3)
    theirs = interop.to_transform(poses)
    torch.testing.assert_close(theirs.transform_points(points), transform(poses, points), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(interop.from_transform(theirs), poses)
    both = interop.from_transform(theirs.compose(interop.to_transform(torch.linalg.inv(poses))))
    torch.testing.assert_close(both, torch.eye(4).expand(4, 4, 4), rtol=0, atol=1e-5)


def test_rotation_vectors_are_the_same() -> None:
    vectors = torch.randn(50, 3, dtype=torch.float64)
    torch.testing.assert_close(transforms.axis_angle_to_matrix(vectors), rotation_from_vector(vectors))


def test_meshes_of_a_track() -> None:
    model = load("builtin")
    track = some_track(model)
    meshes = interop.track_meshes(track, model)
    torch.testing.assert_close(meshes.verts_padded(), model.vertices_m(track.identity, track.expression))
    assert torch.equal(meshes.faces_padded(), model.triangles.long().expand(3, -1, -1))
    assert len(interop.track_cameras(track)) == 3
    with pytest.raises(UserError, match="made with the face model other-1"):
        interop.track_meshes(dataclasses.replace(track, face_model="other-1"), model)


@pytest.mark.parametrize("cull", [False, True])
def test_rasterisers_agree(cull: bool) -> None:
    """Where corners lie on the 1/1024 px to which ours rounds them, they see the same points of the same triangles."""
    model = load("builtin")
    track = some_track(model, 2)
    camera, poses = crop_camera(track.camera, 0.0, 0.0, 0.5, (64, 48)), track.cam_from_head
    vertices = _at_round_pixels(model.vertices_m(track.identity, track.expression), camera, poses)
    theirs = interop.rasterize(vertices, model.triangles, camera, poses, cull)
    seen = transform(poses, vertices)
    points, depth = project(camera, seen).contiguous(), seen[..., 2].contiguous()
    ours = rasterize(points, depth, model.triangles, camera.size_px, cull)
    same = ours.triangle == theirs.triangle
    assert same.float().mean() > 0.999 and (ours.triangle >= 0).float().mean() > 0.2
    torch.testing.assert_close(theirs.depth_m[same], ours.depth_m[same], rtol=0, atol=2e-6)
    # In a sliver a little rounding is much of a weight, so what the weights say is compared: the point.
    place = [_points(r.barycentric, r.triangle, vertices, model.triangles)[same] for r in (ours, theirs)]
    assert (place[0] - place[1]).norm(dim=-1).max() < 2e-6
    nothing = theirs.triangle < 0
    assert nothing.any() and not theirs.depth_m[nothing].any() and not theirs.barycentric[nothing].any()


def _at_round_pixels(vertices: Tensor, camera: Camera, poses: Tensor) -> Tensor:
    """The vertices, moved at equal depth to where their images are multiples of 1/1024 px."""
    seen = transform(poses, vertices)
    pixels = (project(camera, seen) * 1024).round() / 1024
    moved = torch.cat([(pixels - camera.center_px) / camera.focal_px, torch.ones_like(seen[..., 2:])], -1)
    return transform(inverse_rigid(poses), moved * seen[..., 2:])


def _points(barycentric: Tensor, triangle: Tensor, vertices: Tensor, triangles: Tensor) -> Tensor:
    """(frames, high, wide, 3): the point of the mesh that each pixel sees."""
    frame = torch.arange(len(vertices))[:, None, None, None]
    corners = vertices[frame, triangles[triangle.long()]]
    return (corners * barycentric[..., None]).sum(-2)
