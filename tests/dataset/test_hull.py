"""Where a head can be, from silhouettes of an ellipsoid at known poses."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from ellipsoid import (
    CENTER_M,
    RADII_M,
    ellipsoid_camera,
    ellipsoid_dataset,
    ellipsoid_image,
    head_poses,
    surface_points,
)

from manvatar.dataset import depth_behind_surface, visual_hull
from manvatar.dataset.bounds import head_bounds
from manvatar.dataset.hull import hull_votes, widened
from manvatar.geometry import project, rigid, rotation_from_vector, transform
from manvatar.types import Camera, Dataset

SIZE = 96


@pytest.fixture(scope="module")
def all_round() -> Dataset:
    """Seen from all sides, as no portrait video shows a head: then the hull is the ellipsoid itself."""
    dataset = ellipsoid_dataset(frames=16, held_out=0, size_px=32)
    yaw = torch.arange(16) / 16 * 2 * math.pi
    turns = rotation_from_vector(torch.tensor([[0.7, 0.0, 0.0], [-0.7, 0.0, 0.0]]).repeat(8, 1))
    turns = turns @ rotation_from_vector(yaw[:, None] * torch.tensor([0.0, 1.0, 0.0]))
    poses = rigid(torch.diag(torch.tensor([1.0, -1.0, -1.0])) @ turns, torch.tensor([0.0, 0.0, 0.6]).expand(16, 3))
    camera = Camera(torch.full((2,), 1.2 * SIZE), torch.full((2,), SIZE / 2), (SIZE, SIZE))
    images = torch.stack([ellipsoid_image(camera, pose, 0.0, finer=2) for pose in poses])
    return replace(dataset, images=images, camera=camera, cam_from_head=poses)


def apart(points: torch.Tensor) -> torch.Tensor:
    """1 on the surface, less inside."""
    return ((points - CENTER_M) / RADII_M).norm(dim=1)


def test_the_hull_of_an_ellipsoid(all_round: Dataset) -> None:
    points = torch.rand(6000, 3) * 0.3 - 0.15 + CENTER_M
    inside = visual_hull(all_round, points, frames=16, agreement=1.0)
    distance = apart(points)
    assert inside[distance < 1].all()  # nothing of the head is cut off
    assert not inside[distance > 1.35].any()  # widened mattes and corners no view looks along
    assert inside[(distance > 1) & (distance < 1.35)].float().mean() < 0.5


def test_one_wrong_matte_is_outvoted(all_round: Dataset) -> None:
    images = all_round.images.clone()
    images[3] = 0
    points = torch.rand(500, 3) * 0.1 - 0.05 + CENTER_M
    hull = replace(all_round, images=images)
    assert visual_hull(hull, points, frames=16, agreement=0.9)[apart(points) < 1].all()
    assert not visual_hull(hull, points, frames=16, agreement=1.0).any()


def test_only_training_frames_have_a_say(all_round: Dataset) -> None:
    images = all_round.images.clone()
    images[8:] = 255
    rows = torch.arange(16)
    trained_on_white = replace(all_round, images=images, train=rows[8:], held_out=rows[:8])
    far = CENTER_M + torch.tensor([[0.13, 0.0, 0.0]])
    assert visual_hull(trained_on_white, far, frames=8).all()
    assert not visual_hull(replace(trained_on_white, train=rows[:8]), far, frames=8).any()


def test_votes_count_frames_that_show_the_point() -> None:
    """By hand: four frames in which the point lies on the matte, beside it, out of the picture, and on it."""
    camera = Camera(torch.tensor([10.0, 10.0]), torch.tensor([5.0, 5.0]), (10, 10))
    poses = torch.eye(4).repeat(4, 1, 1)
    poses[:, 2, 3] = 1
    poses[1, 0, 3], poses[2, 0, 3] = 0.2, 3.0
    alphas = torch.zeros(4, 10, 10)
    alphas[:, 5, 5] = 1.0  # the projection of the origin
    alphas[3] = 0.04  # hardly
    alphas[3, 5, 5] = 0.06
    votes = hull_votes(torch.zeros(1, 3), alphas, camera, poses)
    assert votes.item() == pytest.approx(2 / 3)
    assert hull_votes(torch.tensor([[50.0, 0, 0]]), alphas, camera, poses).item() == 0  # no image shows it


def test_mattes_are_widened_by_a_part_of_their_size() -> None:
    alpha = torch.zeros(1, 200, 200)
    alpha[0, 100, 100] = 0.7
    wide = widened(alpha)[0]
    assert (wide[97:104, 97:104] == 0.7).all() and wide.sum() == pytest.approx(0.7 * 49)  # 1.5 % of 200: 3 pixels
    assert (widened(torch.eye(20)[None])[0] > 0).sum() == 20 + 2 * 19 + 2 * 18  # never less than one


def test_bounds_hold_the_head_and_little_more(all_round: Dataset) -> None:
    alphas = all_round.images[..., 3].float() / 255
    box = head_bounds(alphas, all_round.camera, all_round.cam_from_head, agreement=1.0)
    lower, upper = CENTER_M - RADII_M, CENTER_M + RADII_M
    assert (box.lower_m <= lower).all() and (box.upper_m >= upper).all()
    slack = 0.03  # a cell of 8 mm around cells that reach half out, 5 mm of widened mattes, corners no view cuts off
    assert (lower - box.lower_m < slack).all() and (box.upper_m - upper < slack).all()


def test_bounds_of_a_portrait_hold_what_is_seen() -> None:
    """From the front only: depth is open behind, but every pixel of the mattes has rays in the box."""
    dataset = ellipsoid_dataset(frames=8, held_out=0)
    points = surface_points(500)
    assert ((points > dataset.bounds.lower_m) & (points < dataset.bounds.upper_m)).all()
    assert float(dataset.bounds.upper_m[2]) < 0.07  # and it does not reach for the camera


def test_without_mattes_the_box_is_that_of_any_head() -> None:
    box = head_bounds(torch.zeros(2, 32, 32), ellipsoid_camera(32), head_poses(2))
    assert (box.upper_m - box.lower_m > 0.2).all()


def test_depth_behind_a_slope() -> None:
    """z = 0.02 + 0.5 x: depth along -z of the head, whatever the height."""
    x, y = torch.meshgrid(torch.linspace(-0.1, 0.1, 201), torch.linspace(-0.1, 0.1, 201), indexing="ij")
    surface = torch.stack([x, y, 0.02 + 0.5 * x], -1).reshape(-1, 3)
    hidden = surface - torch.tensor([0.0, 0.0, 0.05])  # the back of the head, and the mouth bag: it does not count
    points = torch.rand(800, 3) * 0.16 - 0.08
    depth = depth_behind_surface(points, torch.cat([hidden, surface]))
    expected = 0.02 + 0.5 * points[:, 0] - points[:, 2]
    assert (depth - expected).abs().max() < 0.006  # bins of 6 mm
    assert (depth - expected).mean().abs() < 0.002


def test_beside_the_face_its_nearest_edge_counts() -> None:
    surface = torch.rand(4000, 3) * torch.tensor([0.1, 0.1, 0.0]) + torch.tensor([-0.05, -0.05, 0.03])
    points = torch.tensor([[0.2, 0.0, 0.0], [-0.2, 0.2, 0.1], [0.0, 0.0, 0.0]])
    depth = depth_behind_surface(points, surface)
    torch.testing.assert_close(depth, torch.tensor([0.03, -0.07, 0.03]), rtol=0, atol=1e-3)


def test_in_front_of_the_ellipsoid_is_negative() -> None:
    points = torch.rand(3000, 3) * 0.2 - 0.1 + CENTER_M
    over_face = (((points - CENTER_M) / RADII_M)[:, :2].norm(dim=1) < 0.8) & (points[:, 2] > CENTER_M[2])
    depth = depth_behind_surface(points, surface_points())
    wrong = ((depth > 0) != (apart(points) < 1)) & over_face
    near = (apart(points) - 1).abs() < 0.15
    assert over_face.sum() > 300 and not wrong[~near].any()


def test_a_projection_is_where_the_picture_shows_it(all_round: Dataset) -> None:
    """The helper of these tests agrees with the geometry they rely on."""
    middle = project(all_round.camera, transform(all_round.cam_from_head, CENTER_M.expand(16, 1, 3)))[:, 0]
    for image, (x, y) in zip(all_round.images, middle.tolist(), strict=True):
        rows, columns = (image[..., 3] > 128).nonzero().double().mean(0) + 0.5
        assert abs(float(columns) - x) < 1 and abs(float(rows) - y) < 1
