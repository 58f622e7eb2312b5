"""Rays hit what projection says; a box is entered and left where brute force finds it."""

from __future__ import annotations

import torch
from rendering.balls import BOX, camera, pose

from manvatar.geometry import pixel_grid, project, rigid, rotation_from_vector, transform
from manvatar.rendering import camera_rays, image_rays, intersect_box
from manvatar.types import Rays


def poses(count: int) -> torch.Tensor:
    turned = rotation_from_vector(0.4 * torch.randn(count, 3)) @ pose()[:3, :3]
    return rigid(turned, 0.05 * torch.randn(count, 3) + torch.tensor([0.0, 0.0, 0.6]))


def test_points_along_a_ray_project_onto_its_pixel() -> None:
    cam_from_head = poses(4)
    frame = torch.randint(4, (200,))
    pixels = torch.rand(200, 2) * 32
    rays = camera_rays(camera(), cam_from_head, pixels, frame)
    torch.testing.assert_close(rays.directions.norm(dim=1), torch.ones(200))
    assert torch.equal(rays.frame, frame)
    points = rays.origins_m + rays.directions * (0.2 + torch.rand(200, 1))
    seen = transform(cam_from_head[frame], points[:, None])[:, 0]
    assert (seen[:, 2] > 0).all()
    torch.testing.assert_close(project(camera(), seen), pixels, rtol=0, atol=1e-3)


def test_rays_start_at_the_camera() -> None:
    cam_from_head = poses(3)
    rays = camera_rays(camera(), cam_from_head, torch.rand(3, 2) * 32, torch.arange(3))
    eye = transform(cam_from_head, rays.origins_m[:, None])
    torch.testing.assert_close(eye, torch.zeros_like(eye), rtol=0, atol=1e-6)


def test_the_rays_of_an_image_come_row_by_row() -> None:
    cam_from_head = poses(1)[0]
    rays = image_rays(camera(8), cam_from_head)
    expected = camera_rays(camera(8), cam_from_head[None], pixel_grid((8, 8)).view(-1, 2), torch.zeros(64).long())
    assert torch.equal(rays.directions, expected.directions) and torch.equal(rays.origins_m, expected.origins_m)
    straight = project(camera(8), transform(cam_from_head, rays.origins_m[8:9] + rays.directions[8:9]))
    torch.testing.assert_close(
        straight, torch.tensor([[0.5, 1.5]]), rtol=0, atol=1e-4
    )  # ninth: second row, first column


def test_rays_are_differentiable_in_the_pose() -> None:
    w = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    t = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    pixels, frame = torch.rand(5, 2, dtype=torch.float64) * 32, torch.tensor([0, 1, 1, 0, 1])

    def rays(w: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        made = camera_rays(camera(), rigid(rotation_from_vector(w), t), pixels, frame)
        return made.origins_m, made.directions

    assert torch.autograd.gradcheck(rays, (w, t))


def some_rays(count: int) -> Rays:
    """Rays from outside, from inside, past the box, away from it, and along its axes."""
    origins = torch.randn(count, 3) * 0.15
    directions = torch.nn.functional.normalize(0.1 * torch.randn(count, 3) - origins, dim=1)
    directions[: count // 4] = torch.nn.functional.normalize(torch.randn(count // 4, 3), dim=1)
    directions[-6:] = torch.cat([torch.eye(3), -torch.eye(3)])
    return Rays(origins, directions, torch.zeros(count, dtype=torch.int64))


def test_box_against_brute_force() -> None:
    rays = some_rays(400)
    near, far = intersect_box(rays, BOX)
    distance = torch.linspace(0, 1.2, 4801)
    points = rays.origins_m[:, None] + distance[:, None] * rays.directions[:, None]
    inside = ((points >= BOX.lower_m) & (points <= BOX.upper_m)).all(-1)
    hits = inside.any(1)
    assert 50 < hits.sum() < 350 and inside[:, 0].sum() > 20  # all kinds of rays are among them
    step = float(distance[1])
    assert (far - near)[~hits].max() <= step  # a grazing ray may slip between two points
    first = distance[inside[hits].int().argmax(1)]
    last = distance[4800 - inside[hits].flip(1).int().argmax(1)]
    assert (near[hits] <= first).all() and (first - near[hits]).max() <= step
    assert (far[hits] >= last - 1e-6).all() and (far[hits] - last).max() <= step


def test_a_box_behind_the_origin_is_missed() -> None:
    back = Rays(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.0, 0.0, 1.0]]), torch.zeros(1, dtype=torch.int64))
    near, far = intersect_box(back, BOX)
    assert near >= far


def test_a_ray_within_a_face_of_the_box_is_finite() -> None:
    origin = torch.tensor([[float(BOX.lower_m[0]), 0.0, 0.5]])
    along = Rays(origin, torch.tensor([[0.0, 0.0, -1.0]]), torch.zeros(1, dtype=torch.int64))
    near, far = intersect_box(along, BOX)
    assert near.isfinite().all() and far.isfinite().all()
