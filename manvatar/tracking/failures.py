"""Frames whose fit is not to be believed, and what stands in for them."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from manvatar.geometry import rotation_from_vector, vector_from_rotation
from manvatar.tracking.problem import Problem, State, residuals_px, row_scale

RESIDUAL_FACTOR = 3.0  # times the clip's median
RESIDUAL_FLOOR = 0.02  # of the face's size: below this a frame is good whatever the median is
OUTLIER_SHARE = 0.25  # of the points with a Huber weight below OUTLIER_WEIGHT
OUTLIER_WEIGHT = 0.3
TURN_DEG = 8.0  # second difference of the rotation, at 25 frames/s
DISTANCE_JUMP = 0.10
BRIDGED_FRAMES = 5  # a gap of so many frames is still part of one motion
EXPRESSION_FACTOR = 4.0  # |b| over sqrt(E)


def residual_fraction(problem: Problem, state: State) -> Float[Tensor, "f"]:
    """Weighted rms residual of each frame over the size of the face."""
    squared = (residuals_px(problem, state) ** 2).sum(-1)
    weight = problem.weight
    return ((weight * squared).sum(1) / weight.sum(1).clamp_min(1e-12)).sqrt() / problem.unit_px


def misfits(problem: Problem, state: State) -> Bool[Tensor, "f"]:
    """Frames whose landmarks, or the face they make, cannot be right by themselves."""
    fraction = residual_fraction(problem, state)
    bad = fraction > max(RESIDUAL_FACTOR * float(fraction.median()), RESIDUAL_FLOOR)
    length = (residuals_px(problem, state) * row_scale(problem)[0][..., None]).norm(dim=-1)
    seen = problem.weight > 0
    outlier = (length > problem.huber / OUTLIER_WEIGHT) & seen
    bad |= outlier.sum(1) > OUTLIER_SHARE * seen.sum(1)
    bad |= state.expression.norm(dim=1) > EXPRESSION_FACTOR * math.sqrt(state.expression.shape[1])
    return bad | _looks_away(state)


def failed(problem: Problem, state: State, frame_rate_hz: float) -> Bool[Tensor, "f"]:
    """Frames that fit badly, or whose pose no head takes for one frame only."""
    return misfits(problem, state) | _jumps(problem, state, frame_rate_hz)


def _looks_away(state: State) -> Bool[Tensor, "f"]:
    """The face points away from the camera, or lies behind it: a mirrored solution."""
    out_of_face = state.rotation[:, :, 2]
    return (state.translation_m[:, 2] <= 0) | ((out_of_face * state.translation_m).sum(1) > 0)


def _jumps(problem: Problem, state: State, frame_rate_hz: float) -> Bool[Tensor, "f"]:
    """A single frame apart from both its neighbours."""
    result = torch.zeros(len(state.rotation), dtype=torch.bool)
    if len(result) < 3:
        return result
    velocity = vector_from_rotation(state.rotation[1:] @ state.rotation[:-1].transpose(1, 2))
    turn = (velocity[1:] - velocity[:-1]).norm(dim=1)
    # A fast nod changes its speed as much; but its frame lies between its neighbours, not apart from both.
    turn = torch.where((velocity[1:] + velocity[:-1]).norm(dim=1) < turn / 2, turn, torch.zeros_like(turn))
    distance = state.translation_m[:, 2]
    jump = (2 * distance[1:-1] / (distance[2:] + distance[:-2]) - 1).abs()
    together = problem.frame[2:] - problem.frame[:-2] == 2
    limit = math.radians(TURN_DEG) * max(25 / frame_rate_hz, 1.0) ** 2
    excess = torch.where(together, torch.maximum(turn / limit, jump / DISTANCE_JUMP), torch.zeros_like(turn))
    # The frame itself, not the two beside it whose second differences it spoils.
    beside = torch.nn.functional.pad(excess, (1, 1))
    result[1:-1] = (excess > 1) & (excess >= beside[:-2]) & (excess >= beside[2:])
    return result


def bridged(problem: Problem, state: State) -> tuple[Problem, State, Tensor]:
    """Problem and state with the short gaps filled by frames that have seen nothing, and the rows that were there.

    A motion prior over them carries the motion across; longer gaps stay open, and the sides know nothing of each other.
    """
    steps = problem.frame[1:] - problem.frame[:-1]
    gaps = torch.nonzero((steps > 1) & (steps <= BRIDGED_FRAMES + 1))[:, 0].tolist()
    filled = [torch.arange(int(problem.frame[g]) + 1, int(problem.frame[g + 1])) for g in gaps]
    frame, order = torch.cat([problem.frame, *filled]).sort()
    known = torch.nonzero(order < len(problem.frame))[:, 0]
    source = (torch.searchsorted(problem.frame, frame, right=True) - 1).clamp_min(0)
    weight = torch.zeros(len(frame), problem.weight.shape[1], dtype=problem.weight.dtype)
    weight[known] = problem.weight
    whole = replace(problem.select(source), weight=weight, frame=frame)
    return whole, interpolated(state, problem.frame, frame), known


def interpolated(state: State, known: Tensor, wanted: Tensor) -> State:
    """Pose and expression at frames ``wanted`` from those of ``state``, which stand at frames ``known`` (ascending).

    Rotations turn about one axis at a constant rate, the rest is linear; outside the known frames the nearest holds.
    """
    after = torch.searchsorted(known, wanted).clamp(0, len(known) - 1)
    before = torch.where(known[after] <= wanted, after, (after - 1).clamp_min(0))
    span = (known[after] - known[before]).clamp_min(1)
    part = ((wanted - known[before]).to(state.translation_m) / span)[:, None].clamp(0, 1)
    first, second = state.select(before), state.select(after)
    turn = vector_from_rotation(second.rotation @ first.rotation.transpose(1, 2))
    return State(
        rotation_from_vector(part * turn) @ first.rotation,
        torch.lerp(first.translation_m, second.translation_m, part),
        torch.lerp(first.expression, second.expression, part),
        state.shape_m,
        state.log_focal,
    )
