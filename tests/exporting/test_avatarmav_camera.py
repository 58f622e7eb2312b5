"""Poses between AvatarMAV's terms and ours, against a direct reading of the released code's formulas."""

from __future__ import annotations

import torch

from manvatar.exporting.avatarmav import (
    density_scale_per_m,
    from_released,
    refitted_poses,
    released_camera,
    released_near_far,
    scale_at_distance,
    to_released,
)
from manvatar.fields import PaperFieldConfig
from manvatar.geometry import crop_camera, project, rigid, rotation_from_vector, transform
from manvatar.rendering import camera_rays
from manvatar.types import Camera

CONFIG = PaperFieldConfig()


def some_frames(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    turn, shift = 0.5 * torch.randn(count, 3, dtype=torch.float64), 0.05 * torch.randn(count, 3, dtype=torch.float64)
    return torch.cat([turn, shift], 1), 0.07 + 0.05 * torch.rand(count, dtype=torch.float64)


def test_a_point_is_seen_where_they_see_it() -> None:
    """Their way: scale, turn, shift, then an extrinsic matrix and an intrinsic one for 256 pixels."""
    pose, scale = some_frames()
    model = torch.rand(6, 30, 3, dtype=torch.float64) * 2 - 1
    world = torch.einsum("fij,fpj->fpi", rotation_from_vector(pose[:, :3]), model * scale[:, None, None])
    world = world + pose[:, None, 3:]
    cam = world * torch.tensor([1.0, -1.0, -1.0]) + torch.tensor([0.0, 0.0, 4.0])
    expected = 2500 * cam[..., :2] / cam[..., 2:] + 128
    head = (model - torch.tensor(CONFIG.origin)) * CONFIG.unit_m
    found = transform(from_released(pose, scale, CONFIG), head)
    torch.testing.assert_close(project(released_camera(256), found), expected, rtol=0, atol=2e-4)
    torch.testing.assert_close(project(released_camera(512), found), expected * 2, rtol=0, atol=4e-4)


def test_there_and_back() -> None:
    pose, _ = some_frames()
    scale = torch.full((6,), 0.09, dtype=torch.float64)
    torch.testing.assert_close(to_released(from_released(pose, scale, CONFIG), 0.09, CONFIG), pose)


def test_density_counts_world_lengths() -> None:
    """At scale 0.1 the world is in metres; a head twice as large there has twice the way through it."""
    assert density_scale_per_m(0.1, 0.1) == 100
    assert density_scale_per_m(0.2, 0.1) == 200


def test_heads_come_to_the_distance_they_expect() -> None:
    pose, scale = some_frames()
    poses = from_released(pose, scale, CONFIG)
    found = scale_at_distance(poses, CONFIG)
    depth = 4 - to_released(poses, found, CONFIG)[:, 5]
    torch.testing.assert_close(depth.mean(), torch.tensor(4.0, dtype=torch.float64))


def test_rays_that_miss_keep_their_depth() -> None:
    pose, scale = torch.zeros(1, 6, dtype=torch.float64), torch.full((1,), 0.05, dtype=torch.float64)
    poses = from_released(pose, scale, CONFIG)
    pixels = torch.tensor([[2.0, 3.0], [128.0, 128.0]], dtype=torch.float64)
    rays = camera_rays(released_camera(256, torch.float64), poses, pixels, torch.zeros(2, dtype=torch.int64))
    near, far = released_near_far(rays, poses, CONFIG.box(torch.float64), 0.05, CONFIG.unit_m)
    middle = (CONFIG.box().upper_m - CONFIG.box().lower_m)[2].double()
    torch.testing.assert_close(far[1] - near[1], middle, rtol=1e-4, atol=0)
    depth = transform(poses, (rays.origins_m + rays.directions * near[:, None])[None])[0, 0, 2]
    torch.testing.assert_close(depth, torch.tensor(3.5 * 0.1 / 0.05, dtype=torch.float64))


def head_points(count: int = 60) -> torch.Tensor:
    return (torch.rand(count, 3, dtype=torch.float64) - 0.5) * torch.tensor([0.14, 0.18, 0.08])


def test_the_same_camera_needs_no_new_poses() -> None:
    pose, scale = some_frames()
    poses, camera = from_released(pose, scale, CONFIG), released_camera(512)
    found, residual = refitted_poses(camera, poses, head_points().expand(6, -1, -1), camera)
    torch.testing.assert_close(found, poses, rtol=0, atol=1e-7)
    assert residual.max() < 1e-6


def test_another_camera_shows_nearly_the_same() -> None:
    """A camera half a metre away, whose axis is not in the middle: perspective is what is left, a few pixels."""
    turn = 0.3 * torch.randn(6, 3, dtype=torch.float64)
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
    poses = rigid(flip @ rotation_from_vector(turn), torch.tensor([0.05, -0.03, 0.6], dtype=torch.float64).expand(6, 3))
    video = Camera(torch.full((2,), 1500.0), torch.tensor([640.0, 360.0]), (1280, 720))
    camera = crop_camera(video, 500.0, 20.0, 512 / 530, (512, 512))
    points = head_points().expand(6, -1, -1)
    found, residual = refitted_poses(camera, poses, points, released_camera(512))
    assert residual.max() < 12 and residual.min() > 0.1
    pixels, before = (project(c, transform(p, points)) for c, p in ((released_camera(512), found), (camera, poses)))
    torch.testing.assert_close(pixels.mean(1), before.mean(1), rtol=0, atol=1.0)
    rotation = found[:, :3, :3]
    eye = torch.eye(3, dtype=torch.float64).expand(6, 3, 3)
    torch.testing.assert_close(rotation @ rotation.mT, eye)
    worse = found.clone()
    worse[:, :3, 3] *= 1.01  # no other pose near it is better
    moved = project(released_camera(512), transform(worse, points)) - before
    assert (moved.square().sum(-1).mean(-1).sqrt() > residual).all()
