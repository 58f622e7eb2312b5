"""The occupancy grid keeps bounds of the density over positions and expressions."""

from __future__ import annotations

import torch
from rendering.balls import BOX, Ball

from manvatar.rendering import OccupancyGrid
from manvatar.types import Box

GROWING = torch.tensor([[-1.0], [0.0], [1.0]])  # radii of 4, 5 and 6 cm


def looked_at(
    field: Ball, expressions: torch.Tensor, times: int, cell_m: float = 0.01, **options: float
) -> OccupancyGrid:
    grid = OccupancyGrid(BOX, cell_m)
    generator = torch.Generator().manual_seed(3)
    for _ in range(times):
        grid.update(field, expressions, generator, **options)
    return grid


def distance_m(grid: OccupancyGrid, field: Ball) -> torch.Tensor:
    """Of the centres of the cells from the centre of the ball, (Z, Y, X)."""
    centers = grid.cell_centers_m() - torch.tensor(field.center_m)
    return centers.norm(dim=1).view(grid.highest.shape)


def test_cells_fill_the_box() -> None:
    box = Box(torch.tensor([0.0, -0.1, 0.2]), torch.tensor([0.05, 0.1, 0.3]))
    grid = OccupancyGrid(box, 0.012)
    assert grid.highest.shape == (9, 17, 5) and grid.cells_xyz == (5, 17, 9)
    torch.testing.assert_close(grid.cell_size_m() * torch.tensor([5, 17, 9]), box.upper_m - box.lower_m)
    assert (grid.cell_size_m() <= 0.012).all()


def test_centres_lie_in_their_cells_and_order_is_z_y_x() -> None:
    grid = OccupancyGrid(BOX, 0.02)
    index, inside = grid.cell_index(grid.cell_centers_m())
    assert torch.equal(index, torch.arange(grid.highest.numel())) and inside.all()
    z, y, x = 3, 7, 2
    center = BOX.lower_m + (torch.tensor([x, y, z]) + 0.5) * grid.cell_size_m()
    flat = (z * grid.highest.shape[1] + y) * grid.highest.shape[2] + x
    torch.testing.assert_close(grid.cell_centers_m()[flat], center)


def test_points_outside_are_told_and_clamped() -> None:
    grid = OccupancyGrid(BOX, 0.02)
    outside = torch.stack([BOX.lower_m - 0.01, BOX.upper_m + 0.01, BOX.upper_m])
    index, inside = grid.cell_index(outside)
    last = grid.highest.numel() - 1
    assert not inside.any() and index.tolist() == [0, last, last]
    assert grid.cell_index(BOX.lower_m)[1]


def test_nothing_is_known_at_first_so_everything_is_occupied() -> None:
    assert OccupancyGrid(BOX, 0.02).occupied(4.0).all()


def test_bounds_over_expressions() -> None:
    """Cells within 4 cm are always dense, beyond 6 cm never, and between sometimes."""
    field = Ball(density_per_m=100)
    grid = looked_at(field, GROWING, 40, decay=1.0)
    distance, half_diagonal = distance_m(grid, field), 0.5 * float(grid.cell_size_m().norm())
    always, never = distance < 0.04 - half_diagonal, distance > 0.06 + half_diagonal
    between = (distance > 0.04 + half_diagonal) & (distance < 0.06 - half_diagonal)
    assert always.sum() > 50 and never.sum() > 5000 and between.sum() > 20
    assert (grid.highest[always] == 100).all() and (grid.lowest[always] == 100).all()
    assert (grid.highest[never] == 0).all() and (grid.lowest[never] == 0).all()
    # By chance a cell may not have been probed with each of the three in forty looks: (2/3)^40 is 1e-7.
    assert (grid.highest[between] == 100).all() and (grid.lowest[between] < 45).all()


def test_occupied_cells_are_those_above_the_threshold() -> None:
    grid = looked_at(Ball(density_per_m=100), GROWING[1:2], 30, decay=1.0)
    inside = distance_m(grid, Ball()) < 0.05
    touched = distance_m(grid, Ball()) < 0.05 + float(grid.cell_size_m().norm()) / 2
    assert grid.occupied(4.0)[inside].all() and not grid.occupied(4.0)[~touched].any()
    assert torch.equal(grid.occupied(99.0), grid.occupied(4.0)) and not grid.occupied(100.0).any()


def test_the_hull_is_never_left() -> None:
    field = Ball(density_per_m=100)
    grid = OccupancyGrid(BOX, 0.01)
    grid.allowed.copy_(torch.rand(grid.allowed.shape) < 0.5)
    grid.update(field, GROWING, torch.Generator().manual_seed(0))
    assert grid.highest[~grid.allowed].isinf().all() and grid.highest[grid.allowed].isfinite().all()
    assert not grid.occupied(4.0)[~grid.allowed].any() and grid.occupied(4.0).any()


def test_what_disappears_is_forgotten() -> None:
    grid = looked_at(Ball(density_per_m=100), GROWING[1:2], 5)
    inside = grid.highest == 100
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        grid.update(Ball(density_per_m=0), GROWING[1:2], generator, decay=0.9)
    assert not grid.occupied(4.0).any() and (grid.lowest[inside] == 0).all()


def test_what_becomes_opaque_is_believed_again() -> None:
    """One transparent moment must not switch off termination for ever."""
    grid = looked_at(Ball(density_per_m=0), GROWING[1:2], 3)
    generator = torch.Generator().manual_seed(0)
    field = Ball(density_per_m=100)
    for _ in range(40):
        grid.update(field, GROWING[1:2], generator, decay=0.9)
    deep = distance_m(grid, field) < 0.03
    assert (grid.lowest[deep] == 100).all() and (grid.highest[deep] == 100).all()


def test_a_fraction_of_the_cells() -> None:
    grid = looked_at(Ball(), GROWING, 1, fraction=0.25)
    known = grid.highest.isfinite().float().mean()
    assert 0.2 < known < 0.3


def test_nothing_allowed_is_no_error() -> None:
    grid = OccupancyGrid(BOX, 0.02)
    grid.allowed.fill_(False)
    grid.update(Ball(), GROWING, torch.Generator())
    assert not grid.occupied(4.0).any()


def test_state_travels() -> None:
    grid, other = looked_at(Ball(), GROWING, 2), OccupancyGrid(BOX, 0.01)
    other.load_state_dict(grid.state_dict())
    assert torch.equal(other.occupied(4.0), grid.occupied(4.0)) and torch.equal(other.lowest, grid.lowest)
    assert set(grid.state_dict()) == {"highest", "lowest", "allowed"}
