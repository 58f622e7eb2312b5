"""Where to take samples on rays: fixed steps through occupied cells, stopped behind what is surely opaque."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from manvatar.rendering.occupancy import OccupancyGrid
from manvatar.rendering.rays import intersect_box
from manvatar.types import Rays, RaySamples


@dataclass(frozen=True)
class MarchConfig:
    """How densely rays are sampled."""

    step_m: float = 0.0025
    empty_below_per_m: float = 4.0  # a cell whose highest density is below this holds no samples
    stop_transmittance: float = 1e-2  # no samples where the light left is surely below this
    margin_cells: int = 1  # cells kept behind the point where the light ran out


@dataclass(frozen=True)
class MarchTables:
    """What marching reads, precomputed from an occupancy grid; rebuild after the grid changes."""

    occupied: Tensor  # (cells,) bool
    lowest: Tensor  # (cells,) 1/m, what is surely there


def march_tables(occupancy: OccupancyGrid, config: MarchConfig) -> MarchTables:
    """Occupied cells and safe opacity bounds of ``occupancy`` as flat tables."""
    # A cell nobody has looked into yet is not known to be opaque.
    lowest = torch.where(occupancy.lowest.isinf(), 0.0, occupancy.lowest)
    return MarchTables(occupancy.occupied(config.empty_below_per_m).flatten(), lowest.flatten())


@torch.no_grad()
def march(
    rays: Rays,
    occupancy: OccupancyGrid,
    tables: MarchTables,
    config: MarchConfig,
    jitter: torch.Generator | None = None,
) -> RaySamples:
    """Packed samples of all rays.

    Each ray is cut into steps of ``config.step_m`` from where it enters the box; a step is kept when its middle lies
    in an occupied cell and the light that surely remains there exceeds ``config.stop_transmittance``. With ``jitter``
    the grid of steps is shifted by a random part of a step on each ray (training); without it steps are fixed.
    """
    near, far = intersect_box(rays, occupancy.box)
    device = near.device
    longest = (far - near).clamp_min(0).max() if len(near) else near.new_zeros(())
    steps = int((longest / config.step_m).ceil()) if len(near) else 0
    if steps == 0:
        empty = torch.zeros(0, device=device)
        return RaySamples(empty, empty, empty.long(), torch.zeros(len(near) + 1, dtype=torch.int64, device=device))
    shift = torch.rand(len(near), generator=jitter).to(device) if jitter is not None else torch.full_like(near, 0.5)
    distance = near[:, None] + (torch.arange(steps, device=device) + shift[:, None]) * config.step_m
    points = rays.origins_m.detach()[:, None] + distance[..., None] * rays.directions.detach()[:, None]
    cell, inside = occupancy.cell_index(points)
    keep = tables.occupied[cell] & inside
    optical_depth = torch.where(keep, tables.lowest[cell], 0.0).cumsum(1) * config.step_m
    margin = max(1, round(config.margin_cells * float(occupancy.cell_size_m().mean()) / config.step_m))
    if margin < steps:
        limit = -torch.log(torch.tensor(config.stop_transmittance)).item()
        keep[:, margin:] &= optical_depth[:, :-margin] < limit
    ray, step = keep.nonzero(as_tuple=True)
    offsets = torch.zeros(len(near) + 1, dtype=torch.int64, device=device)
    offsets[1:] = keep.sum(1).cumsum(0)
    samples = distance[ray, step]
    return RaySamples(samples, torch.full_like(samples, config.step_m), ray, offsets)
