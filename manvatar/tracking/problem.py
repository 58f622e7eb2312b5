"""The landmark term: what is observed, what is unknown, and the linear system around a guess.

With the shape ``s_n`` (the person's neutral landmarks, head frame), the pose ``R_f, t_f`` and the expression ``b_f``:

    X_fn = s_n + sum_e b_fe B_en      Y_fn = R_f X_fn + t_f      u_fn = F (Y_x, Y_y) / Y_z        F = exp(l)

Rows are the points' residuals ``u - U`` and the differences of paired points (lid and lip openings), each divided by
its standard deviation in pixels; the Huber penalty acts on the length of each row pair. The columns of a frame are
``[w (3), t (3), b (E)]`` with the left rotation update ``R <- exp(w) R``; those of the clip are ``[s (3N), l]``.
Everything is linear in the 2x3 matrix ``G = D R`` (D the derivative of the projection), which is why the shape may
stay a free 3N vector: its blocks are ``G^T G``, and no identity basis enters until the prior (``priors.py``).

Letters: f frames, n landmarks that are fitted, p pairs, E expression, S = 3N + 1 shared columns. All float64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from manvatar.geometry import rotation_from_vector
from manvatar.tracking.parallel import over_blocks

POSE = 6  # columns of w and t


@dataclass(frozen=True)
class Problem:
    """What was observed. Frames are those with a face; a point that is missing has weight 0."""

    target_px: Float[Tensor, "f n 2"]  # from the image centre
    weight: Float[Tensor, "f n"]  # >= 0
    unit_px: Float[Tensor, "f"]  # size of the face: distance of the outer eye corners, turned to the front
    sigma: Float[Tensor, "n"]  # standard deviation of each landmark, as a fraction of unit_px
    expression_basis_m: Float[Tensor, "E n 3"]
    pairs: Int[Tensor, "p 2"]
    pair_weight: float
    huber: float
    frame: Int[Tensor, "f"]  # number of each frame in the clip, ascending

    def select(self, rows: Tensor) -> Problem:
        """The same problem with some of its frames."""
        return replace(
            self,
            target_px=self.target_px[rows],
            weight=self.weight[rows],
            unit_px=self.unit_px[rows],
            frame=self.frame[rows],
        )


@dataclass(frozen=True)
class State:
    """What is unknown."""

    rotation: Float[Tensor, "f 3 3"]  # cam_from_head
    translation_m: Float[Tensor, "f 3"]
    expression: Float[Tensor, "f E"]
    shape_m: Float[Tensor, "n 3"]
    log_focal: Float[Tensor, ""]

    def select(self, rows: Tensor) -> State:
        """The same shape and focal length with some of the frames."""
        return replace(
            self,
            rotation=self.rotation[rows],
            translation_m=self.translation_m[rows],
            expression=self.expression[rows],
        )

    def put(self, rows: Tensor, other: State) -> State:
        """This state with frames ``rows``, the shape and the focal length taken from ``other``."""
        rotation, translation, expression = (x.clone() for x in (self.rotation, self.translation_m, self.expression))
        rotation[rows], translation[rows], expression[rows] = other.rotation, other.translation_m, other.expression
        return State(rotation, translation, expression, other.shape_m, other.log_focal)

    def moved(self, step: Float[Tensor, "f x"], shared: Float[Tensor, "S"] | None) -> State:
        """One step along the columns described above; ``step`` may hold the six pose columns alone."""
        shape, log_focal = self.shape_m, self.log_focal
        if shared is not None:
            shape, log_focal = shape + shared[:-1].reshape(-1, 3), log_focal + shared[-1]
        expression = self.expression if step.shape[1] == POSE else self.expression + step[:, POSE:]
        rotation = rotation_from_vector(step[:, :3]) @ self.rotation
        return State(rotation, self.translation_m + step[:, 3:POSE], expression, shape, log_focal)


@dataclass(frozen=True)
class System:
    """Gauss-Newton blocks: ``[frame, border; border^T, corner] step = -[gradient; shared_gradient]``."""

    frame: Float[Tensor, "f x x"]
    gradient: Float[Tensor, "f x"]
    border: Float[Tensor, "f x S"] | None
    corner: Float[Tensor, "S S"] | None
    shared_gradient: Float[Tensor, "S"] | None


def points_cam_m(problem: Problem, state: State) -> tuple[Float[Tensor, "f n 3"], Float[Tensor, "f n 3"]]:
    """Rotated points ``R X`` and points in the camera frame ``R X + t``."""
    basis = problem.expression_basis_m
    moved = state.shape_m + (state.expression @ basis.flatten(1)).reshape(-1, *basis.shape[1:])
    rotated = moved @ state.rotation.transpose(1, 2)
    return rotated, rotated + state.translation_m[:, None]


def residuals_px(problem: Problem, state: State) -> Float[Tensor, "f n 2"]:
    """Fitted minus detected positions."""
    points = points_cam_m(problem, state)[1]
    return points[..., :2] / points[..., 2:] * state.log_focal.exp() - problem.target_px


def row_scale(problem: Problem) -> tuple[Float[Tensor, "f n"], Float[Tensor, "f p"]]:
    """Square root of weight over standard deviation, of points and of pairs."""
    root = problem.weight.sqrt()
    points = root / (problem.sigma * problem.unit_px[:, None])
    first, second = problem.pairs.unbind(1)
    deviation = (problem.sigma[first] * problem.sigma[second]).sqrt() * problem.unit_px[:, None]
    both = torch.minimum(root[:, first], root[:, second])
    return points, both * problem.pair_weight**0.5 / deviation


def rows(problem: Problem, residual_px: Float[Tensor, "f n 2"]) -> Float[Tensor, "f rows 2"]:
    """Residuals of points, then of pairs, in standard deviations."""
    points, pairs = row_scale(problem)
    first, second = problem.pairs.unbind(1)
    difference = residual_px[:, first] - residual_px[:, second]
    return torch.cat([residual_px * points[..., None], difference * pairs[..., None]], 1)


def huber_energy(length: Tensor, threshold: float) -> Tensor:
    """Twice the Huber penalty: the square below the threshold, linear above it."""
    return torch.where(length <= threshold, length**2, 2 * threshold * length - threshold**2)


def huber_weight(length: Tensor, threshold: float) -> Tensor:
    """Weight of the square that has the Huber penalty's slope."""
    return threshold / length.clamp_min(threshold)


def energy(problem: Problem, state: State) -> Float[Tensor, "f"]:
    """Landmark energy of every frame. A frame with a point behind the camera costs infinity."""
    points = points_cam_m(problem, state)[1]
    residual = points[..., :2] / points[..., 2:] * state.log_focal.exp() - problem.target_px
    value = huber_energy(rows(problem, residual).norm(dim=-1), problem.huber).sum(1)
    behind = ((points[..., 2] < 1e-3) & (problem.weight > 0)).any(1)
    return torch.where(behind, torch.full_like(value, torch.inf), value)


def linearise(problem: Problem, state: State, *, pose_only: bool, shared: bool, block: int = 32) -> System:
    """Gauss-Newton system of the landmark term, ``block`` frames at a time so that memory stays small."""
    parts = over_blocks(
        lambda rows: _linearise(problem.select(rows), state.select(rows), pose_only, shared),
        len(problem.unit_px),
        block,
    )
    frame, gradient = torch.cat([p.frame for p in parts]), torch.cat([p.gradient for p in parts])
    if not shared:
        return System(frame, gradient, None, None, None)
    return System(
        frame,
        gradient,
        torch.cat([p.border for p in parts]),
        torch.stack([p.corner for p in parts]).sum(0),
        torch.stack([p.shared_gradient for p in parts]).sum(0),
    )


def _linearise(problem: Problem, state: State, pose_only: bool, shared: bool) -> System:
    rotated, points = points_cam_m(problem, state)
    focal = state.log_focal.exp()
    projected = points[..., :2] / points[..., 2:] * focal
    residual = projected - problem.target_px
    derivative = _projection_derivative(points, focal)  # D: (f, n, 2, 3)
    in_head = derivative @ state.rotation[:, None]  # G = D R
    columns = [torch.linalg.cross(rotated[:, :, None].expand_as(derivative), derivative), derivative]
    if not pose_only:
        # (f n i c) x (E n c): one product of (2F, 3) x (3, E) for each landmark.
        by_landmark = in_head.permute(1, 0, 2, 3).flatten(1, 2) @ problem.expression_basis_m.permute(1, 2, 0)
        columns.append(by_landmark.reshape(in_head.shape[1], -1, 2, by_landmark.shape[-1]).transpose(0, 1))
    jacobian = torch.cat(columns, -1)  # (f, n, 2, x)

    # Pairs are differences of points, so their rows fold back onto the points: T^T W T with T = [1; differences].
    scale_points, scale_pairs = row_scale(problem)
    length = rows(problem, residual).norm(dim=-1)
    robust = huber_weight(length, problem.huber)
    count = residual.shape[1]
    weight_points, weight_pairs = scale_points**2 * robust[:, :count], scale_pairs**2 * robust[:, count:]
    weighted = _fold(problem.pairs, weight_points, weight_pairs, jacobian)
    flat = jacobian.flatten(1, 2)
    frame = flat.transpose(1, 2) @ weighted.flatten(1, 2)
    gradient = (weighted.flatten(1, 2).transpose(1, 2) @ residual.flatten(1)[..., None])[..., 0]
    if not shared:
        return System(frame, gradient, None, None, None)

    folded_residual = _fold(problem.pairs, weight_points, weight_pairs, residual[..., None])
    slope = projected[..., None]  # du / dl
    folded_slope = _fold(problem.pairs, weight_points, weight_pairs, slope)
    border_shape = (weighted.transpose(2, 3) @ in_head).permute(0, 2, 1, 3).flatten(2)
    border_focal = flat.transpose(1, 2) @ folded_slope.flatten(1, 2)
    corner = _corner(problem.pairs, weight_points, weight_pairs, in_head, folded_slope, slope)
    shape_gradient = (in_head.transpose(2, 3) @ folded_residual).sum(0).flatten()
    focal_gradient = (folded_residual * slope).sum().reshape(1)
    border = torch.cat([border_shape, border_focal], 2)
    return System(frame, gradient, border, corner, torch.cat([shape_gradient, focal_gradient]))


def _projection_derivative(points: Float[Tensor, "f n 3"], focal: Tensor) -> Float[Tensor, "f n 2 3"]:
    x, y, z = points.unbind(-1)
    zero = torch.zeros_like(x)
    entries = [focal / z, zero, -focal * x / z**2, zero, focal / z, -focal * y / z**2]
    return torch.stack(entries, -1).reshape(*x.shape, 2, 3)


def _fold(pairs: Tensor, weight_points: Tensor, weight_pairs: Tensor, value: Float[Tensor, "f n 2 c"]) -> Tensor:
    """``T^T W T value``: the weighted rows of points and pairs, gathered on the points."""
    first, second = pairs.unbind(1)
    result = weight_points[..., None, None] * value
    difference = weight_pairs[..., None, None] * (value[:, first] - value[:, second])
    return result.index_add(1, first, difference).index_add(1, second, difference, alpha=-1)


def _corner(
    pairs: Tensor, weight_points: Tensor, weight_pairs: Tensor, in_head: Tensor, folded_slope: Tensor, slope: Tensor
) -> Float[Tensor, "S S"]:
    """Shape-shape, shape-focal and focal-focal blocks, summed over the frames."""
    count = in_head.shape[1]
    first, second = pairs.unbind(1)
    diagonal = weight_points.index_add(1, first, weight_pairs).index_add(1, second, weight_pairs)
    own = torch.einsum("fn,fnic,fnid->ncd", diagonal, in_head, in_head)
    cross = -torch.einsum("fp,fpic,fpid->pcd", weight_pairs, in_head[:, first], in_head[:, second])
    blocks = torch.zeros(count, 3, count, 3, dtype=in_head.dtype)
    each = torch.arange(count)
    blocks[each, :, each] = own
    blocks[first, :, second] = cross
    blocks[second, :, first] = cross.transpose(1, 2)
    result = torch.zeros(3 * count + 1, 3 * count + 1, dtype=in_head.dtype)
    result[:-1, :-1] = blocks.reshape(3 * count, 3 * count)
    mixed = (in_head.transpose(2, 3) @ folded_slope).sum(0).flatten()
    result[:-1, -1] = mixed
    result[-1, :-1] = mixed
    result[-1, -1] = (slope * folded_slope).sum()
    return result
