"""Where samples are taken. The op itself is compared with its reference in ``tests/ops/test_march.py``."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from rendering.balls import BOX, Ball, camera, pose

from manvatar.rendering import MarchConfig, OccupancyGrid, image_rays, intersect_box, march, march_tables
from manvatar.types import Rays, RaySamples

CONFIG = MarchConfig(step_m=0.004)


def grid_of(field: Ball, looks: int = 30) -> OccupancyGrid:
    grid = OccupancyGrid(BOX, 0.01)
    generator = torch.Generator().manual_seed(1)
    for _ in range(looks):
        grid.update(field, torch.zeros(1, 1), generator, decay=1.0)
    return grid


def marched(grid: OccupancyGrid, config: MarchConfig = CONFIG, **options: torch.Generator) -> tuple[Rays, RaySamples]:
    rays = image_rays(camera(24), pose(0.3))
    return rays, march(rays, grid, march_tables(grid, config), config, **options)


def points(rays: Rays, samples: RaySamples) -> torch.Tensor:
    return rays.origins_m[samples.ray] + rays.directions[samples.ray] * samples.distance_m[:, None]


def test_an_unknown_box_is_sampled_evenly_from_end_to_end() -> None:
    rays, samples = marched(OccupancyGrid(BOX, 0.01))
    near, far = intersect_box(rays, BOX)
    assert 0 < (near < far).sum() < len(near)
    for ray in torch.linspace(0, len(near) - 1, 50).long().tolist():
        found = samples.distance_m[samples.offsets[ray] : samples.offsets[ray + 1]]
        length = float(far[ray] - near[ray])
        assert abs(len(found) - max(0.0, length) / CONFIG.step_m) <= 1
        if len(found):
            expected = near[ray] + (torch.arange(len(found)) + 0.5) * CONFIG.step_m
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (samples.length_m == torch.tensor(CONFIG.step_m)).all()
    assert torch.equal(samples.ray, torch.arange(len(near)).repeat_interleave(samples.offsets.diff()))


def test_samples_lie_in_occupied_cells_and_none_is_missing() -> None:
    config = replace(CONFIG, stop_transmittance=0.0)
    everywhere = points(*marched(OccupancyGrid(BOX, 0.01), config))
    grid = grid_of(Ball())
    kept = points(*marched(grid, config))
    occupied = grid.occupied(config.empty_below_per_m).flatten()
    assert torch.equal(kept, everywhere[occupied[grid.cell_index(everywhere)[0]]])
    assert 0 < len(kept) < 0.2 * len(everywhere)


def test_jitter_shifts_whole_rays_by_less_than_a_step() -> None:
    grid = OccupancyGrid(BOX, 0.01)
    rays, fixed = marched(grid)
    _, shifted = marched(grid, jitter=torch.Generator().manual_seed(5))
    near, _ = intersect_box(rays, BOX)
    shift = (shifted.distance_m - near[shifted.ray]) / CONFIG.step_m
    part = shift - (torch.arange(len(shift)) - shifted.offsets[shifted.ray])
    first = part[shifted.offsets[:-1][shifted.offsets.diff() > 0]]
    assert (first >= -1e-3).all() and (first < 1.001).all() and 0.25 < first.std() < 0.33  # uniform: 0.289
    torch.testing.assert_close(part, part[shifted.offsets[shifted.ray]], rtol=0, atol=2e-3)  # the same along a ray
    _, again = marched(grid, jitter=torch.Generator().manual_seed(5))
    assert torch.equal(again.distance_m, shifted.distance_m) and not torch.equal(fixed.offsets, shifted.offsets)


def test_nothing_is_sampled_behind_what_is_opaque() -> None:
    opaque = grid_of(Ball(density_per_m=1000))
    config = replace(CONFIG, stop_transmittance=1e-3)
    rays, stopped = marched(opaque, config)
    _, all_of_them = marched(opaque, replace(config, stop_transmittance=0.0))
    entry, chord = Ball().chord_m(rays.origins_m, rays.directions)
    middle = int(chord.argmax())
    through = stopped.distance_m[stopped.offsets[middle] : stopped.offsets[middle + 1]]
    # ln(1000) / 1000 is 7 mm; a cell of border whose inside is not surely opaque, the margin of one cell, a step.
    assert float(through[-1] - entry[middle]) < 0.007 + 0.01 * 3**0.5 + 0.01 + 0.004
    assert len(stopped.ray) < 0.7 * len(all_of_them.ray)


def test_a_cell_nobody_has_looked_into_is_not_opaque() -> None:
    grid = OccupancyGrid(BOX, 0.01)
    tables = march_tables(grid, CONFIG)
    assert tables.occupied.all() and (tables.lowest == 0).all()


@pytest.mark.parametrize("looks", [0, 1])
def test_no_rays(looks: int) -> None:
    grid = grid_of(Ball(), looks)
    none = Rays(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    samples = march(none, grid, march_tables(grid, CONFIG), CONFIG)
    assert samples.offsets.tolist() == [0] and len(samples.distance_m) == 0
