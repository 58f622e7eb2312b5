"""Samples spread evenly through the box, the same number on every ray."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from manvatar.errors import UserError
from manvatar.rendering import MarchConfig, OccupancyGrid, march, march_tables, uniform_samples
from manvatar.types import Box, Rays

BOX = Box(torch.tensor([-0.1, -0.1, -0.1]), torch.tensor([0.1, 0.1, 0.1]))


def test_against_the_formula() -> None:
    samples = uniform_samples(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 2.5]), 5)
    torch.testing.assert_close(samples.distance_m, torch.tensor([1, 1.25, 1.5, 1.75, 2, 2, 2.125, 2.25, 2.375, 2.5]))
    assert samples.offsets.tolist() == [0, 5, 10] and samples.ray.tolist() == [0] * 5 + [1] * 5
    torch.testing.assert_close(samples.length_m[:4], torch.full((4,), 0.25))
    assert samples.length_m[[4, 9]].min() > 1e6  # the last one never ends


def test_rays_that_miss_have_none() -> None:
    near, far = torch.tensor([1.0, 3.0, 1.0]), torch.tensor([2.0, 2.0, 2.0])
    samples = uniform_samples(near, far, 4)
    assert samples.offsets.tolist() == [0, 4, 4, 8] and samples.ray.tolist() == [0] * 4 + [2] * 4
    nothing = uniform_samples(near[1:2], far[1:2], 4)
    assert nothing.offsets.tolist() == [0, 0] and len(nothing.distance_m) == 0


def test_march_takes_them_from_the_box() -> None:
    """Whatever is occupied, and without jitter."""
    occupancy = OccupancyGrid(BOX, 0.05)
    occupancy.highest.zero_()
    rays = Rays(
        torch.tensor([[0.0, 0.0, 1.0], [0.5, 0.0, 1.0]]),
        torch.tensor([[0.0, 0.0, -1.0]]).expand(2, 3),
        torch.zeros(2, dtype=torch.int64),
    )
    config = MarchConfig(samples_per_ray=3)
    samples = march(rays, occupancy, march_tables(occupancy, config), config, torch.Generator().manual_seed(0))
    torch.testing.assert_close(samples.distance_m, torch.tensor([0.9, 1.0, 1.1]))
    assert samples.offsets.tolist() == [0, 3, 3]
    stepping = MarchConfig(step_m=0.01)
    assert len(march(rays, occupancy, march_tables(occupancy, stepping), stepping).ray) == 0


def test_empty_cells_are_left_out() -> None:
    """But for the last sample, which stands for all that lies behind; intervals stay as they are."""
    occupancy = OccupancyGrid(BOX, 0.05)
    occupancy.highest.zero_()
    occupancy.highest[2] = 100.0  # z from 0 to 5 cm
    rays = Rays(
        torch.tensor([[0.01, 0.01, 1.0], [0.5, 0.0, 1.0], [0.01, 0.01, 1.0]]),
        torch.tensor([[0.0, 0.0, -1.0]]).expand(3, 3),
        torch.zeros(3, dtype=torch.int64),
    )
    config = MarchConfig(samples_per_ray=11, skip_empty=True)
    samples = march(rays, occupancy, march_tables(occupancy, config), config)
    expected = torch.tensor([0.96, 0.98, 1.1])  # of 0.90, 0.92, ... 1.10; z = 0 belongs to one of two cells
    assert samples.offsets.tolist()[-1] == len(samples.ray) == 2 * int(samples.offsets[1])
    mine = samples.distance_m[: samples.offsets[1]]
    torch.testing.assert_close(mine[(mine - 1.0).abs() > 1e-4], expected)
    every = march(rays, occupancy, march_tables(occupancy, config), MarchConfig(samples_per_ray=11))
    kept = torch.isin(every.distance_m, samples.distance_m)
    torch.testing.assert_close(every.length_m[kept], samples.length_m)


def test_what_surely_no_light_reaches_is_left_out() -> None:
    """With one sample more than needed; where it is dark behind, the endless last sample goes, too."""
    occupancy = OccupancyGrid(BOX, 0.05)
    occupancy.highest.fill_(1000.0)
    occupancy.lowest.fill_(100.0)  # half of them are thin
    occupancy.lowest[..., 2:] = 0.0
    pair = torch.tensor([[-0.01, 0.01, 1.0], [0.01, 0.01, 1.0]])
    rays = Rays(pair, torch.tensor([[0.0, 0.0, -1.0]]).expand(2, 3), torch.zeros(2, dtype=torch.int64))
    config = MarchConfig(samples_per_ray=11, skip_empty=True, stop_transmittance=0.1)
    samples = march(rays, occupancy, march_tables(occupancy, config), config)
    # exp(-100/m x 2 cm) = 0.135 of the light is left behind one sample, 0.018 behind two: three are taken.
    assert samples.offsets.tolist() == [0, 3, 14]
    all_of_them = march(rays, occupancy, march_tables(occupancy, config), replace(config, stop_transmittance=0.0))
    assert all_of_them.offsets.tolist() == [0, 11, 22]


def test_one_sample_is_none() -> None:
    with pytest.raises(UserError, match="samples_per_ray = 1 is not possible"):
        MarchConfig(samples_per_ray=1)
