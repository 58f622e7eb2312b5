"""Packed samples on rays through a grid of occupied cells.

A ray is cut into steps of ``step_m`` from where it enters the box; the middle of step k is at

    t_k = near + (k + shift) step_m

A step is kept when its middle lies inside the box and in an occupied cell, and when the light that surely reaches it
is not yet used up: the sum of ``lowest_per_m * step_m`` over the steps kept up to k - margin_steps is below
``stop_depth``. Box entry: slabs (Kay and Kajiya, SIGGRAPH 1986).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from manvatar.ops._library import has_op, require

_BUILT = has_op("march")


class Marched(NamedTuple):
    """What :func:`march` returns: the samples of ray r are ``offsets[r]:offsets[r + 1]``, from near to far."""

    distance_m: Float[Tensor, "samples"]  # of the middle of the step from the ray's origin
    ray: Int64[Tensor, "samples"]
    offsets: Int64[Tensor, "rays_plus_one"]


@torch.no_grad()
def march(
    origins_m: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    shift: Float[Tensor, "rays"],
    occupied: Bool[Tensor, "z y x"],
    lowest_per_m: Float[Tensor, "z y x"],
    lower_m: Sequence[float],
    upper_m: Sequence[float],
    step_m: float,
    stop_depth: float,
    margin_steps: int,
    capacity: int | None = None,
) -> Marched:
    """Samples of all rays; formulas at the head of this module. Not differentiable; deterministic.

    Args:
        origins_m: float32 or float64, as are ``directions``, ``shift`` and ``lowest_per_m``.
        directions: of unit length (not checked; a ray shorter than 1e-6 has no samples).
        shift: where in a step its sample lies, [0, 1); 0.5 is the middle.
        occupied: cells of equal size that fill the box.
        lowest_per_m: density that is surely there, finite; only read in occupied cells.
        lower_m: corners of the box, (x, y, z), as is ``upper_m``.
        stop_depth: -log of the light left where samples end; infinity samples everything.
        margin_steps: >= 1.
        capacity: for CUDA, where the host must wait for the number of samples unless it gives one: so many rows come
            back, the samples of the first rays and behind the last offset rows that belong to no ray (distance 0, and
            the last ray's number). Samples beyond are left out.

    Raises:
        RuntimeError: shapes, dtypes, devices or numbers that do not fit, in words.
        UserError: the native library is not built.
    """
    require("march", _BUILT, origins_m)
    return Marched(
        *torch.ops.manvatar.march(
            origins_m,
            directions,
            shift,
            occupied,
            lowest_per_m,
            lower_m,
            upper_m,
            step_m,
            stop_depth,
            margin_steps,
            -1 if capacity is None else capacity,
        )
    )


@torch.no_grad()
def march_reference(
    origins_m: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    shift: Float[Tensor, "rays"],
    occupied: Bool[Tensor, "z y x"],
    lowest_per_m: Float[Tensor, "z y x"],
    lower_m: Sequence[float],
    upper_m: Sequence[float],
    step_m: float,
    stop_depth: float,
    margin_steps: int,
) -> Marched:
    """:func:`march` in plain PyTorch. Memory is rays times the steps of the longest ray."""
    lower, upper = (origins_m.new_tensor(corner) for corner in (lower_m, upper_m))
    safe = torch.where(directions.abs() < 1e-9, torch.full_like(directions, 1e-9), directions)
    a, b = (lower - origins_m) / safe, (upper - origins_m) / safe
    near, far = torch.minimum(a, b).amax(-1).clamp_min(0), torch.maximum(a, b).amin(-1)
    hits = near < far
    longest = (far - near)[hits].max() if hits.any() else near.new_zeros(())
    steps = int((longest / step_m).ceil()) + 1

    distance_m = near[:, None] + (torch.arange(steps, device=near.device) + shift[:, None]) * step_m
    points = origins_m[:, None] + distance_m[..., None] * directions[:, None]
    cells = torch.tensor(occupied.shape[::-1], device=near.device)
    unit = (points - lower) / (upper - lower)
    inside = ((unit >= 0) & (unit < 1)).all(-1) & hits[:, None]
    x, y, z = (unit * cells).floor().long().clamp_min(0).minimum(cells - 1).unbind(-1)
    keep = occupied[z, y, x] & inside
    depth = torch.where(keep, lowest_per_m[z, y, x], 0.0).cumsum(1) * step_m
    if margin_steps < steps:
        keep[:, margin_steps:] &= depth[:, :-margin_steps] < stop_depth
    offsets = torch.zeros(len(near) + 1, dtype=torch.int64, device=near.device)
    offsets[1:] = keep.sum(1).cumsum(0)
    return Marched(distance_m[keep], keep.nonzero()[:, 0], offsets)


def _fake(
    origins_m: Tensor,
    directions: Tensor,
    shift: Tensor,
    occupied: Tensor,
    lowest_per_m: Tensor,
    lower_m: list[float],
    upper_m: list[float],
    step_m: float,
    stop_depth: float,
    margin_steps: int,
    capacity: int = -1,
) -> tuple[Tensor, Tensor, Tensor]:
    samples = torch.library.get_ctx().new_dynamic_size() if capacity < 0 else capacity
    index = torch.int64
    return (
        origins_m.new_empty(samples),
        origins_m.new_empty(samples, dtype=index),
        origins_m.new_empty(origins_m.shape[0] + 1, dtype=index),
    )


if _BUILT:
    torch.library.register_fake("manvatar::march", _fake)
