"""A head that is a coloured ellipsoid with a mouth that one coefficient opens: every pixel of it is known."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from manvatar.dataset.bounds import head_bounds
from manvatar.geometry import pixel_grid, project, rigid, rotation_from_vector, transform
from manvatar.rendering import camera_rays
from manvatar.types import Camera, Dataset

CENTER_M = torch.tensor([0.0, -0.01, -0.05])
RADII_M = torch.tensor([0.07, 0.10, 0.08])
MOUTH_M = (0.0, -0.05)  # x and y of its middle


def ellipsoid_camera(size_px: int = 64) -> Camera:
    return Camera(torch.full((2,), 2.2 * size_px), torch.full((2,), size_px / 2), (size_px, size_px))


def head_poses(count: int, yaw_rad: float = 0.35, pitch_rad: float = 0.2) -> Tensor:
    """The head 60 cm away, looking round in a Lissajous figure."""
    time = torch.arange(count) / count * 2 * math.pi
    turn = torch.stack([pitch_rad * (2 * time).cos(), yaw_rad * time.sin(), torch.zeros(count)], -1)
    rotation = torch.diag(torch.tensor([1.0, -1.0, -1.0])) @ rotation_from_vector(turn)
    return rigid(rotation, torch.tensor([0.0, 0.0, 0.6]).expand(count, 3))


def silhouette_and_color(camera: Camera, pose: Tensor, opening: float, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the rays through pixels (R, 2) hit the ellipsoid, and the colour (R, 3) they see there."""
    rays = camera_rays(camera, pose[None], pixels, torch.zeros(len(pixels), dtype=torch.int64))
    origins, directions = (rays.origins_m - CENTER_M) / RADII_M, rays.directions / RADII_M
    a, b, c = directions.square().sum(1), (origins * directions).sum(1), origins.square().sum(1) - 1
    root = b * b - a * c
    distance = (-b - root.clamp_min(0).sqrt()) / a
    return root > 0, surface_color(rays.origins_m + distance[:, None] * rays.directions, opening)


def surface_color(points_m: Tensor, opening: float) -> Tensor:
    """Stripes of skin, and a dark mouth whose height in centimetres is ``opening`` and a half."""
    unit = (points_m - CENTER_M) / RADII_M
    skin = torch.stack(
        [0.8 + 0.1 * (9 * unit[:, 0]).sin(), 0.6 + 0.15 * (7 * unit[:, 1]).cos(), 0.5 + 0.2 * unit[:, 2]], 1
    )
    x, y = (points_m[:, 0] - MOUTH_M[0]) / 0.03, (points_m[:, 1] - MOUTH_M[1]) / (0.0025 + 0.005 * opening)
    inside = torch.sigmoid(12 * (1 - x.square() - y.square())) * (unit[:, 2] > 0)
    return torch.lerp(skin, torch.tensor([0.35, 0.05, 0.08]), inside[:, None])


def ellipsoid_image(camera: Camera, pose: Tensor, opening: float, finer: int = 3) -> Tensor:
    """Straight RGBA (H, W, 4) uint8, each pixel the mean of ``finer`` squared rays."""
    width, height = camera.size_px
    offset = (torch.arange(finer) + 0.5) / finer - 0.5
    offsets = torch.cartesian_prod(offset, offset)
    pixels = (pixel_grid(camera.size_px)[:, :, None] + offsets).reshape(-1, 2)
    hit, color = silhouette_and_color(camera, pose, opening, pixels)
    hit, color = hit.view(height, width, -1, 1).float(), color.view(height, width, -1, 3)
    alpha = hit.mean(2)
    rgb = (color * hit).sum(2) / hit.sum(2).clamp_min(1)
    return (torch.cat([rgb, alpha], -1).clamp(0, 1) * 255).round().to(torch.uint8)


def surface_points(count: int = 4000) -> Tensor:
    """Points on the front of the ellipsoid."""
    unit = torch.nn.functional.normalize(torch.randn(count, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    unit[:, 2] = unit[:, 2].abs()
    return unit * RADII_M + CENTER_M


def landmarks_head_m() -> Tensor:
    """68 points of which only mouth and eyes mean something, on the ellipsoid's front."""
    points = torch.zeros(68, 3)
    for rows, x, y, size in (
        (range(48, 68), *MOUTH_M, 0.03),
        (range(36, 42), -0.03, 0.02, 0.01),
        (range(42, 48), 0.03, 0.02, 0.01),
    ):
        turn = torch.linspace(0, 2 * math.pi, len(rows) + 1)[:-1]
        points[list(rows), :2] = torch.stack([x + size * turn.cos(), y + 0.4 * size * turn.sin()], -1)
    flat = (points - CENTER_M) / RADII_M
    points[:, 2] = CENTER_M[2] + RADII_M[2] * (1 - flat[:, :2].square().sum(1)).clamp_min(0).sqrt()
    return points


def ellipsoid_dataset(frames: int = 24, held_out: int = 4, size_px: int = 64) -> Dataset:
    """Two coefficients: the first opens the mouth, the second does nothing."""
    camera, poses = ellipsoid_camera(size_px), head_poses(frames)
    opening = (torch.arange(frames) * 0.618).remainder(1) * 2  # no rhythm in common with the pose
    noise = torch.randn(frames, generator=torch.Generator().manual_seed(1))
    images = torch.stack([ellipsoid_image(camera, poses[f], float(opening[f])) for f in range(frames)])
    rows = torch.arange(frames)
    return Dataset(
        images=images,
        camera=camera,
        cam_from_head=poses,
        expression=torch.stack([opening - 1, noise], -1),
        landmarks_px=project(camera, transform(poses, landmarks_head_m().expand(frames, 68, 3))),
        surface_m=surface_points(),
        bounds=head_bounds(images[..., 3].float() / 255, camera, poses),
        clip_frame=rows,
        train=rows[: frames - held_out],
        held_out=rows[frames - held_out :],
        frame_rate_hz=25.0,
    )
