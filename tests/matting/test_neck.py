"""Neck coordinates against points on a known cylinder, and that all poses agree about the cut."""

from __future__ import annotations

import math

import pytest
import torch

from manvatar.geometry import project, rigid, rotation_from_vector, transform
from manvatar.matting.neck import ANGLES, NeckCut, generic_cut, height_over_cut_m, neck_coordinates
from manvatar.types import Camera

_FACING = torch.diag(torch.tensor([1.0, -1.0, -1.0]))  # head x, y, z seen by a camera in front of the face


def face_points_m() -> torch.Tensor:
    """(68, 3) a schematic face: the points the cut is made from are where people have them."""
    points = torch.zeros(68, 3)
    t = torch.linspace(-1, 1, 17)
    points[:17] = torch.stack([0.065 * torch.sin(t * 1.5), -0.115 * torch.cos(t * 1.5), -0.05 * t.abs() ** 2], -1)
    points[17:27] = torch.stack([torch.linspace(-0.05, 0.05, 10), torch.full((10,), 0.025), torch.zeros(10)], -1)
    points[27:36, 2], points[30] = 0.015, torch.tensor([0.0, -0.04, 0.03])
    points[36:42, 0], points[42:48, 0] = -0.032, 0.032
    points[48:] = torch.tensor([0.0, -0.07, 0.0])
    points[57] = torch.tensor([0.0, -0.08, 0.0])
    return points


def camera(size_px: int = 128) -> Camera:
    """Sees the head at 0.9 m almost filling the picture."""
    return Camera(torch.full((2,), 2.6 * size_px), torch.full((2,), size_px / 2), (size_px, size_px))


def pose(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> torch.Tensor:
    """cam_from_head of a head turned by degrees in its own axes."""
    vector = torch.deg2rad(torch.tensor([pitch, yaw, roll]))
    return rigid(_FACING @ rotation_from_vector(vector), torch.tensor([0.0, 0.0, 0.9]))


def _on_cylinder(cut: NeckCut, angle: float, height_m: float) -> torch.Tensor:
    outward = math.sin(angle) * cut.left + math.cos(angle) * cut.front
    return cut.origin_m + height_m * cut.up + cut.radius_m * outward


def test_proportions() -> None:
    cut = generic_cut(face_points_m())
    assert cut.unit_m == pytest.approx(0.115, abs=0.002)
    assert 0.04 < cut.radius_m < 0.075
    assert float(cut.origin_m[2]) < -0.06  # behind the chin
    assert torch.allclose(cut.left, torch.tensor([1.0, 0.0, 0.0]))
    assert float(cut.up @ cut.front) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("angles_deg", [(0, 0, 0), (25, 10, -15), (-30, -15, 10)])
def test_pixels_know_their_point_of_the_neck(angles_deg: tuple[float, float, float]) -> None:
    cut, view, cam_from_head = generic_cut(face_points_m()), camera(), pose(*map(float, angles_deg))
    where = neck_coordinates(cut, view, cam_from_head, view.size_px)
    checked = 0
    for angle in (-1.2, -0.6, 0.0, 0.5, 1.1):
        for height in (-0.04, -0.02, 0.0):
            point = _on_cylinder(cut, angle, height)
            outward = cam_from_head[:3, :3] @ (point - cut.origin_m - height * cut.up)
            in_camera = transform(cam_from_head, point[None])[0]
            if outward @ in_camera > -0.3 * cut.radius_m * in_camera.norm():
                continue  # on the far side, or seen too obliquely for a whole pixel to stand for it
            x, y = project(view, in_camera)
            if not (0 < x < 127 and 0 < y < 127):
                continue
            row, column = int(y), int(x)
            assert float(where.height_m[row, column]) == pytest.approx(height, abs=0.004)
            assert float(where.angle_rad[row, column]) == pytest.approx(angle, abs=0.08)
            assert float(where.distance_m[row, column]) == pytest.approx(cut.radius_m, rel=1e-3)
            checked += 1
    assert checked >= 6


def test_the_map_has_no_seam_at_the_outline() -> None:
    cut, view = generic_cut(face_points_m()), camera(256)
    where = neck_coordinates(cut, view, pose(), view.size_px)
    row = where.height_m[200]
    assert (row.diff().abs() < 0.004).all()
    assert float(where.distance_m[200].max()) > 1.5 * cut.radius_m


def test_size_of_the_map_does_not_matter() -> None:
    cut, view = generic_cut(face_points_m()), camera(128)
    small = neck_coordinates(cut, view, pose(), (64, 64))
    large = neck_coordinates(cut, view, pose(), (128, 128))
    averaged = large.height_m.reshape(64, 2, 64, 2).mean((1, 3))
    assert (small.height_m - averaged).abs().median() < 1e-4


@pytest.mark.parametrize("angles_deg", [(0, 0, 0), (20, 0, 0), (0, 15, 0), (0, 0, 15)])
def test_the_cut_is_where_its_table_says(angles_deg: tuple[float, float, float]) -> None:
    """Points of the neck just above the cut are kept in every pose, points just below are not."""
    generic, view, cam_from_head = generic_cut(face_points_m()), camera(256), pose(*map(float, angles_deg))
    angle = (torch.arange(ANGLES) / ANGLES - 0.5) * 2 * math.pi
    table = -0.03 + 0.015 * torch.cos(angle)
    cut = generic.with_heights(table, table)
    over = height_over_cut_m(cut, neck_coordinates(cut, view, cam_from_head, view.size_px))
    for at in (-0.7, 0.0, 0.7):
        level = -0.03 + 0.015 * math.cos(at)
        for side in (-1, 1):
            point = _on_cylinder(cut, at, level + side * 0.006)
            outward = cam_from_head[:3, :3] @ (point - cut.origin_m)
            in_camera = transform(cam_from_head, point[None])[0]
            if outward @ in_camera > -0.3 * cut.radius_m * in_camera.norm():
                continue
            x, y = project(view, in_camera)
            assert float(over[int(y), int(x)]) * side > 0
