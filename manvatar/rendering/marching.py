"""Where to take samples on rays: fixed steps through occupied cells, stopped behind what is surely opaque.

Or, for methods that are defined so: the same number on every ray, spread evenly through the box.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from manvatar import ops
from manvatar.errors import UserError
from manvatar.rendering.occupancy import OccupancyGrid
from manvatar.rendering.rays import intersect_box
from manvatar.types import Rays, RaySamples

_ENDLESS_M = 1e8  # what lies behind the last of evenly spread samples


@dataclass(frozen=True)
class MarchConfig:
    """How densely rays are sampled."""

    step_m: float = 0.0025
    empty_below_per_m: float = 4.0  # a cell whose highest density is below this holds no samples
    stop_transmittance: float = 1e-2  # no samples where the light left is surely below this
    margin_cells: int = 1  # cells kept behind the point where the light ran out
    samples_per_ray: int = 0  # so many on every ray, evenly through the box; 0 = steps of ``step_m``
    skip_empty: bool = False  # with samples_per_ray: leave out those in empty cells; steps always do

    def __post_init__(self) -> None:
        if not self.step_m >= 0.0001:
            raise UserError(f"step_m = {self.step_m} is not possible; give 0.0001 (a tenth of a millimetre) or more")
        if not 0 <= self.stop_transmittance < 1:
            raise UserError(f"stop_transmittance = {self.stop_transmittance} is not possible; give a number in [0, 1)")
        if self.samples_per_ray < 0 or self.samples_per_ray == 1:
            raise UserError(f"samples_per_ray = {self.samples_per_ray} is not possible; give 0, or 2 or more")


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
    capacity: int | None = None,
) -> RaySamples:
    """Packed samples of all rays.

    Each ray is cut into steps of ``config.step_m`` from where it enters the box; a step is kept when its middle lies
    in an occupied cell and the light that surely remains there exceeds ``config.stop_transmittance``. With ``jitter``
    the grid of steps is shifted by a random part of a step on each ray (training); without it steps are fixed.
    With ``config.samples_per_ray`` it is :func:`uniform_samples` through the box, which knows none of this, or with
    ``config.skip_empty`` without those in empty cells and those that surely no light reaches; the last one of a ray is
    in no empty cell. With a ``capacity`` steps on a GPU come in so many rows, whatever their number
    (:func:`manvatar.ops.march`): nobody waits for it.
    """
    if config.samples_per_ray:
        samples = uniform_samples(*intersect_box(rays, occupancy.box), config.samples_per_ray)
        return _worth_taking(samples, rays, occupancy, tables, config) if config.skip_empty else samples
    origins = rays.origins_m.detach()
    if jitter is None:
        shift = origins.new_full((len(origins),), 0.5)
    else:
        shift = torch.rand(len(origins), generator=jitter, device=jitter.device).to(origins)
    shape, box = occupancy.allowed.shape, occupancy.box
    margin_steps = max(1, round(config.margin_cells * occupancy.mean_side_m / config.step_m))
    distance_m, ray, offsets = ops.march(
        origins,
        rays.directions.detach(),
        shift,
        tables.occupied.view(shape),
        tables.lowest.view(shape),
        box.lower_m.tolist(),
        box.upper_m.tolist(),
        config.step_m,
        -math.log(config.stop_transmittance) if config.stop_transmittance > 0 else math.inf,
        margin_steps,
        capacity,
    )
    return RaySamples(distance_m, torch.full_like(distance_m, config.step_m), ray, offsets)


def uniform_samples(near_m: Float[Tensor, "rays"], far_m: Float[Tensor, "rays"], count: int) -> RaySamples:
    """``count`` samples from near to far, both ends included; none on rays where near >= far.

    A sample stands for the interval from itself to the next; that of the last is endless, so that any density there is
    opaque (Mildenhall et al. 2020, released code). Not differentiable.
    """
    hit = near_m < far_m
    rows = hit.nonzero()[:, 0]
    near, extent = near_m[rows, None], (far_m - near_m)[rows, None]
    distance = near + extent * torch.linspace(0, 1, count, dtype=near.dtype, device=near.device)
    length = torch.cat([distance.diff(dim=1), torch.full_like(near, _ENDLESS_M)], 1)
    offsets = functional.pad((hit * count).cumsum(0), (1, 0))
    ray = rows.repeat_interleave(count)
    return RaySamples(distance.flatten(), length.flatten(), ray, offsets)


def _worth_taking(
    samples: RaySamples, rays: Rays, occupancy: OccupancyGrid, tables: MarchTables, config: MarchConfig
) -> RaySamples:
    """Evenly spread samples without those in empty cells and those that surely no light reaches.

    The last one of a ray is endless and never in an empty cell. Intervals stay what they are: nothing was in those left
    out.
    """
    per_ray, endless = config.samples_per_ray, samples.length_m >= _ENDLESS_M
    points = rays.origins_m.detach()[samples.ray] + rays.directions.detach()[samples.ray] * samples.distance_m[:, None]
    cells = occupancy.cell_index(points)[0]
    keep = tables.occupied[cells] | endless
    if config.stop_transmittance > 0:
        depth = torch.where(keep & ~endless, tables.lowest[cells] * samples.length_m, 0.0)
        before = functional.pad(depth.view(-1, per_ray).cumsum(1), (2, -2)).flatten()  # one sample more than needed
        keep &= before < -math.log(config.stop_transmittance)
    count = samples.ray.new_zeros(len(rays.origins_m)).scatter_add_(0, samples.ray, keep.long())
    offsets, kept = functional.pad(count.cumsum(0), (1, 0)), keep.nonzero()[:, 0]
    return RaySamples(samples.distance_m[kept], samples.length_m[kept], samples.ray[kept], offsets)
