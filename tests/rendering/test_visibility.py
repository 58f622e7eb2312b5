"""What no camera has seen: behind a solid ball, and in the fog."""

from __future__ import annotations

import torch
from rendering.balls import BOX, Ball, camera, pose
from torch import Tensor

from manvatar.rendering import (
    MarchConfig,
    OccupancyGrid,
    light_from_cells,
    march_tables,
    render_image,
    seen_cells,
)

_MARCH = MarchConfig(step_m=0.002, stop_transmittance=0.0)
_SOLID = Ball(density_per_m=400.0)


def looked_at(field: Ball, yaws_rad: list[float]) -> tuple[OccupancyGrid, Tensor]:
    occupancy = OccupancyGrid(BOX, 0.005)
    occupancy.highest.fill_(100.0)
    poses = torch.stack([pose(yaw) for yaw in yaws_rad])
    tables = march_tables(occupancy, _MARCH)
    light = light_from_cells(field, occupancy, tables, _MARCH, camera(128), poses, torch.zeros(len(poses), 1))
    return occupancy, light


def centres(occupancy: OccupancyGrid) -> Tensor:
    """Of all cells, from the middle of the ball."""
    return occupancy.cell_centers_m() - torch.tensor(_SOLID.center_m)


def test_light_comes_from_the_surface_that_faces_the_camera() -> None:
    occupancy, light = looked_at(_SOLID, [0.0])
    cells, bright = centres(occupancy), light.flatten() > 0.2
    towards = (cells / cells.norm(dim=1, keepdim=True))[bright]
    toward_camera = pose()[:3, :3].T @ (-pose()[:3, 3] / pose()[:3, 3].norm())
    assert bright.sum() > 100
    assert float((towards @ toward_camera).min()) > -0.1  # nothing of the far side
    assert (cells.norm(dim=1)[bright] - _SOLID.radius_m).abs().max() < 0.012
    assert 0 <= float(light.min()) and float(light.max()) <= 1


def test_more_views_see_more() -> None:
    occupancy, one = looked_at(_SOLID, [0.0])
    _, three = looked_at(_SOLID, [-1.5, 0.0, 1.5])
    assert (three >= one).all()
    assert seen_cells(three, 0.015).sum() > 1.5 * seen_cells(one, 0.015).sum()


def test_forgetting_leaves_what_was_seen_and_no_more() -> None:
    occupancy, light = looked_at(_SOLID, [0.0])
    picture = lambda yaw: render_image(  # noqa: E731
        _SOLID, occupancy, camera(64), pose(yaw), torch.zeros(1), _MARCH, background=torch.ones(3)
    )
    front, behind = picture(0.0), picture(3.14)
    occupancy.allowed &= seen_cells(light, 0.015)
    assert (picture(0.0).rgb - front.rgb).abs().max() < 0.02
    # From behind a shell remains where the ball was solid.
    assert picture(3.14).depth_m.max() > behind.depth_m.max() + 0.5 * _SOLID.radius_m


def test_a_speck_apart_from_the_head_goes() -> None:
    light = torch.zeros(20, 20, 20)
    light[4:10, 4:10, 4:10] = 0.5
    light[15, 15, 15] = 0.9
    light[16, 2, 2] = 0.1  # its neighbourhood is dark
    seen = seen_cells(light, 0.015)
    assert seen[3:11, 3:11, 3:11].all() and not seen[12:].any()
    light[4:10, 4:10, 4:10] = 0.0
    assert seen_cells(light, 0.015)[15, 15, 15]  # the brightest is the head
