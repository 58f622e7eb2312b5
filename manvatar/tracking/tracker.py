"""Landmarks of a clip in, camera, identity, poses and expressions out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from manvatar.errors import UserError
from manvatar.geometry import rigid
from manvatar.landmarks import as_ibug68
from manvatar.tracking.config import TrackerConfig
from manvatar.tracking.failures import bridged, failed, interpolated, misfits
from manvatar.tracking.initialisation import weak_perspective
from manvatar.tracking.offsets import all_offsets
from manvatar.tracking.optimise import Outcome, Terms, minimise
from manvatar.tracking.points import FitPoints, fit_points
from manvatar.tracking.priors import ShapePrior, motion_prior, shape_prior
from manvatar.tracking.problem import Problem, State, energy, residuals_px
from manvatar.types import Camera, FaceModel, Landmarks, Track

Progress = Callable[[float, str], None]
_MIN_POINTS = 6  # with fewer visible points a frame has no pose of its own
_SQUARES = 1e9  # a Huber threshold nothing reaches


def track(
    landmarks: Landmarks,
    face_model: FaceModel,
    size_px: tuple[int, int],
    frame_rate_hz: float,
    *,
    focal_px: float | None = None,
    config: TrackerConfig | None = None,
    leave_out: tuple[int, ...] = (),
    progress: Progress | None = None,
) -> Track:
    """Fit one identity and camera, and a pose and expression for every frame, to a clip's landmarks.

    Args:
        landmarks: of the whole clip; frames without a face are allowed and come back with ``valid`` False.
        face_model: has an embedding of ``landmarks.scheme``, or of ``ibug68``, whose points are then used.
        size_px: (width, height) of the picture; the optical axis goes through its middle.
        frame_rate_hz: scales the motion prior.
        focal_px: the camera's focal length where it is known; otherwise ``config.focal`` decides.
        leave_out: landmarks not to fit, for held-out scores.
        progress: called with the share done in [0, 1] and what is going on.

    Returns:
        The track, float32. ``landmark_offsets_m`` covers every landmark of the scheme that the model has.

    Raises:
        UserError: no frame has a usable face.
    """
    config, progress = config or TrackerConfig(), progress or (lambda share, what: None)
    progress(0.0, "first poses")
    if all(embedding.scheme != landmarks.scheme for embedding in face_model.embeddings):
        landmarks = as_ibug68(landmarks)
    points = fit_points(face_model, landmarks.scheme, leave_out)
    log_focal = math.log(focal_px if focal_px is not None else config.prior_focal_ratio * max(size_px))
    model = _Model.of(face_model, points)
    problem, state = _start(landmarks, points, model, size_px, log_focal, config)
    fit = _Fit(problem, model, face_model.expression_names, frame_rate_hz, log_focal, config, points)
    source = "given" if focal_px is not None else "prior"
    for number in range(config.rounds):
        progress(0.1 + 0.85 * number / config.rounds, "shape of the face")
        may_free = number > 0 and source == "prior" and config.focal == "estimate"
        state, estimated = fit.shape(state, may_free)
        source = "estimated" if estimated else source
        progress(0.1 + 0.85 * (number + 0.4) / config.rounds, "pose and expression")
        state = fit.frames(state)
        if number + 1 < config.rounds:
            fit = fit.with_measured_deviations(state)
    state = fit.repair(state)
    fit, state = fit.without(misfits(fit.problem, state), state)
    state = fit.motion(state)
    progress(0.95, "offsets and failures")
    result = _assemble(fit, state, landmarks, face_model, size_px, source)
    progress(1.0, "done")
    return result


@dataclass(frozen=True)
class _Model:
    """The fitted landmarks of a face model, float64."""

    mean_m: Float[Tensor, "n 3"]
    identity_m: Float[Tensor, "I n 3"]
    expression_m: Float[Tensor, "E n 3"]
    size_m: float  # distance of the outer eye corners

    @staticmethod
    def of(face_model: FaceModel, points: FitPoints) -> _Model:
        mean, identity, expression = (x.double() for x in face_model.landmark_bases(points.scheme))
        first, second = (33, 263) if points.scheme == "mediapipe478" else (36, 45)
        size = float((mean[first] - mean[second]).norm())
        return _Model(mean[points.index], identity[:, points.index], expression[:, points.index], size)


def _start(
    landmarks: Landmarks,
    points: FitPoints,
    model: _Model,
    size_px: tuple[int, int],
    log_focal: float,
    config: TrackerConfig,
) -> tuple[Problem, State]:
    """The problem of all frames with a face, and their closed-form poses."""
    centre = torch.tensor(size_px, dtype=torch.float64) / 2
    target = landmarks.points_px[:, points.index].double() - centre
    weight = landmarks.confidence[:, points.index].double() * points.weight
    seen = torch.isfinite(target).all(-1) & (weight > 0)
    frame = torch.nonzero(landmarks.detected & (seen.sum(1) >= _MIN_POINTS))[:, 0]
    if len(frame) == 0:
        raise UserError("no frame of the video shows a face that can be tracked; use a video with a visible face")
    weight = torch.where(seen, weight, torch.zeros_like(weight))[frame]
    target = torch.where(seen[..., None], target, torch.zeros_like(target))[frame]
    rotation, translation, scale = weak_perspective(model.mean_m, target, weight, math.exp(log_focal))
    problem = Problem(
        target_px=target,
        weight=weight,
        unit_px=scale * model.size_m,
        sigma=torch.full((len(points.index),), config.landmark_sd_iod, dtype=torch.float64),
        expression_basis_m=model.expression_m,
        pairs=points.pairs,
        pair_weight=config.aperture_weight,
        huber=config.huber,
        frame=frame,
    )
    expression = torch.zeros(len(frame), len(model.expression_m), dtype=torch.float64)
    return problem, State(rotation, translation, expression, model.mean_m, torch.tensor(log_focal).double())


@dataclass(frozen=True)
class _Fit:
    """The stages of a fit; each takes a state and returns a better one."""

    problem: Problem
    model: _Model
    expression_names: tuple[str, ...]
    frame_rate_hz: float
    log_focal: float  # of the prior, or given
    config: TrackerConfig
    points: FitPoints

    def _minimise(self, terms: Terms, state: State, max_steps: int | None = None) -> Outcome:
        return minimise(terms, state, max_steps=max_steps or self.config.max_steps, tolerance=self.config.tolerance)

    def shape(self, state: State, may_free_focal: bool) -> tuple[State, bool]:
        """Identity and offsets (and focal length where asked and possible) from key frames, with their own poses."""
        count = len(self.problem.frame)
        keys = torch.linspace(0, count - 1, min(count, self.config.key_frames)).round().long().unique()
        problem = self.problem.select(keys)
        prior = self.shape_prior(len(keys))
        known = self._minimise(Terms(problem, pose_only=True), state.select(keys), 4).state
        outcome = self._minimise(Terms(problem, shape=prior), known)
        if may_free_focal and self._yaw_range_deg(state) >= self.config.focal_yaw_range_deg:
            free = minimise(Terms(problem, shape=prior, free_focal=True), outcome.state, max_steps=60, tolerance=1e-8)
            if free.schur is not None and self._log_focal_sd(free.schur) <= self.config.focal_max_sd:
                return self._with_shape(state, free.state, keys), True
        return self._with_shape(state, outcome.state, keys), False

    def shape_prior(self, frames: int) -> ShapePrior:
        """The shape prior when ``frames`` frames vote."""
        return shape_prior(self.model.mean_m, self.model.identity_m, frames, self.log_focal, self.config)

    @staticmethod
    def _with_shape(state: State, found: State, keys: Tensor) -> State:
        """All frames with the shape found on the key frames; a new focal length moves the heads to keep their size."""
        ratio = (found.log_focal - state.log_focal).exp()
        translation = state.translation_m.clone()
        translation[:, 2] *= ratio
        return replace(state, translation_m=translation).put(keys, found)

    @staticmethod
    def _log_focal_sd(schur: Float[Tensor, "S S"]) -> float:
        return float(torch.linalg.inv(schur)[-1, -1].clamp_min(0).sqrt())

    @staticmethod
    def _yaw_range_deg(state: State) -> float:
        forward = -state.rotation[:, :, 2]
        yaw = torch.rad2deg(torch.atan2(forward[:, 0], forward[:, 2]))
        low, high = torch.quantile(yaw, torch.tensor([0.05, 0.95]).double())
        return float(high - low)

    def frames(self, state: State) -> State:
        """Pose and expression of every frame by itself, shape fixed."""
        known = self._minimise(Terms(self.problem, pose_only=True), state, 4).state
        return self._minimise(Terms(self.problem), known).state

    def motion(self, state: State) -> State:
        """Pose and expression of all frames together under the motion prior, shape fixed."""
        problem, state, known = bridged(self.problem, state)
        prior = motion_prior(problem.frame, self.expression_names, self.frame_rate_hz, self.config)
        # From frames fitted one by one every second difference is an outlier; squares bring them in first.
        squares = replace(prior, huber=_SQUARES)
        state = self._minimise(Terms(problem, motion=squares), state, 4).state
        return self._minimise(Terms(problem, motion=prior), state).state.select(known)

    def repair(self, state: State) -> State:
        """Fit failed frames again from their neighbours' pose, and keep what lowers the landmark energy."""
        bad = misfits(self.problem, state)
        if not bad.any() or bad.all():
            return state
        rows, good = torch.nonzero(bad)[:, 0], torch.nonzero(~bad)[:, 0]
        problem, before = self.problem.select(rows), state.select(rows)
        guess = interpolated(state.select(good), self.problem.frame[good], problem.frame)
        again = self._minimise(Terms(problem), guess).state
        better = energy(problem, again) < energy(problem, before)
        return state.put(rows[better], again.select(torch.nonzero(better)[:, 0]))

    def without(self, bad: Bool[Tensor, "f"], state: State) -> tuple[_Fit, State]:
        """The fit and state of the other frames.

        Raises:
            UserError: there are no others.
        """
        good = torch.nonzero(~bad)[:, 0]
        if len(good) == 0:
            raise UserError("the face could not be tracked in any frame; use a video with a clearly visible face")
        return replace(self, problem=self.problem.select(good)), state.select(good)

    def with_measured_deviations(self, state: State) -> _Fit:
        """The same fit with each landmark's deviation measured on its residuals (median, so outliers do not count)."""
        length = residuals_px(self.problem, state).norm(dim=-1) / self.problem.unit_px[:, None]
        median = torch.where(self.problem.weight > 0, length, torch.nan).nanmedian(0).values
        low, high = (factor * self.config.landmark_sd_iod for factor in self.config.landmark_sd_range)
        # The median length of a 2D normal vector is sqrt(2 ln 2) standard deviations.
        sigma = (median / math.sqrt(2 * math.log(2))).nan_to_num(high).clamp(low, high)
        return replace(self, problem=replace(self.problem, sigma=sigma))


def _assemble(
    fit: _Fit, state: State, landmarks: Landmarks, face_model: FaceModel, size_px: tuple[int, int], source: str
) -> Track:
    """The track of all frames of the clip, gaps filled."""
    fit, state = fit.without(failed(fit.problem, state, fit.frame_rate_hz), state)
    problem = fit.problem
    everything = torch.arange(len(landmarks.points_px))
    full = interpolated(state, problem.frame, everything)
    valid: Bool[Tensor, "frames"] = torch.zeros(len(everything), dtype=torch.bool)
    valid[problem.frame] = True
    identity, offsets = fit.shape_prior(len(problem.frame)).split(state.shape_m)
    residual = torch.full((len(everything),), math.nan, dtype=torch.float64)
    length = residuals_px(problem, state).norm(dim=-1)
    weight = (problem.weight > 0).double()
    residual[problem.frame] = ((weight * length**2).sum(1) / weight.sum(1)).sqrt()
    focal = float(state.log_focal.exp())
    centre = torch.tensor(size_px, dtype=torch.float32) / 2
    free = all_offsets(
        landmarks,
        face_model,
        state,
        problem.frame,
        problem.unit_px,
        identity,
        centre,
        fit.config,
    )
    free[fit.points.index] = offsets.float()
    return Track(
        camera=Camera(torch.tensor([focal, focal]), centre, size_px),
        cam_from_head=rigid(full.rotation, full.translation_m).float(),
        identity=identity.float(),
        expression=full.expression.float(),
        landmark_offsets_m=free,
        residual_px=residual.float(),
        valid=valid,
        frame_rate_hz=fit.frame_rate_hz,
        landmark_scheme=landmarks.scheme,
        face_model=face_model.id,
        expression_names=face_model.expression_names,
        focal_source=source,
    )
