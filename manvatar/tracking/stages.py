"""The stages of a fit: shape from key frames, frames one by one, all frames under the motion prior, repair."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from manvatar.errors import UserError
from manvatar.tracking.config import TrackerConfig
from manvatar.tracking.failures import bridged, interpolated, misfits
from manvatar.tracking.noise import sharing_errors, typical_deviation
from manvatar.tracking.optimise import Outcome, Terms, minimise
from manvatar.tracking.points import FitPoints
from manvatar.tracking.priors import MotionPrior, ShapePrior, motion_prior, shape_prior
from manvatar.tracking.problem import POSE, Problem, State, energy, linearise, residuals_px
from manvatar.types import FaceModel

SQUARES = 1e9  # a Huber threshold nothing reaches
WINDOW = 1024  # frames fitted at once, so that memory does not grow with the clip
OVERLAP = 40  # frames a window looks beyond its ends; the motion prior reaches about ten


@dataclass(frozen=True)
class LandmarkModel:
    """The landmarks of a face model that are fitted, float64."""

    mean_m: Float[Tensor, "n 3"]
    identity_m: Float[Tensor, "I n 3"]
    expression_m: Float[Tensor, "E n 3"]
    size_m: float  # distance of the outer eye corners

    @staticmethod
    def of(face_model: FaceModel, points: FitPoints) -> LandmarkModel:
        mean, identity, expression = (x.double() for x in face_model.landmark_bases(points.scheme))
        first, second = (33, 263) if points.scheme == "mediapipe478" else (36, 45)
        size = float((mean[first] - mean[second]).norm())
        return LandmarkModel(mean[points.index], identity[:, points.index], expression[:, points.index], size)


@dataclass(frozen=True)
class Fit:
    """The stages of a fit; each takes a state and returns a better one."""

    problem: Problem
    model: LandmarkModel
    expression_names: tuple[str, ...]
    frame_rate_hz: float
    log_focal: float  # of the prior, or given
    config: TrackerConfig
    points: FitPoints

    def _minimise(self, terms: Terms, state: State, max_steps: int | None = None) -> Outcome:
        return minimise(terms, state, max_steps=max_steps or self.config.max_steps, tolerance=self.config.tolerance)

    def shape(self, state: State, key_frames: int, may_free_focal: bool) -> tuple[State, bool]:
        """Identity and offsets (and focal length where asked and possible) from key frames, with their own poses."""
        count = len(self.problem.frame)
        keys = torch.linspace(0, count - 1, min(count, key_frames)).round().long().unique()
        problem = self.problem.select(keys)
        prior = self.shape_prior(len(keys))
        known = self._minimise(Terms(problem, pose_only=True), state.select(keys), 4).state
        outcome = self._minimise(Terms(problem, shape=prior), known)
        if may_free_focal and self._yaw_range_deg(state) >= self.config.focal_yaw_range_deg:
            free = minimise(Terms(problem, shape=prior, free_focal=True), outcome.state, max_steps=60, tolerance=1e-8)
            if free.schur is not None and self._log_focal_sd(free.schur) <= self.config.focal_max_sd:
                return self._with_shape(state, free.state, keys), True
        return self._with_shape(state, outcome.state, keys), False

    def neutral(self, problem: Problem, state: State, rounds: int = 3) -> State:
        """The neutral landmarks that fit some frames best, poses, expressions and focal length fixed."""
        prior = self.shape_prior(len(problem.frame))
        nothing = torch.zeros(len(problem.frame), POSE, dtype=torch.float64)
        for _ in range(rounds):  # linear but for the Huber weights
            data = linearise(problem, state, pose_only=True, shared=True)
            pull = data.shared_gradient + prior.precision @ prior.deviation(state)
            step = -torch.linalg.solve((data.corner + prior.precision)[:-1, :-1], pull[:-1])
            state = state.moved(nothing, torch.cat([step, step.new_zeros(1)]))
        return state

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
        for rows in torch.arange(len(self.problem.frame)).split(WINDOW):
            problem = self.problem.select(rows)
            known = self._minimise(Terms(problem, pose_only=True), state.select(rows), 4).state
            state = state.put(rows, self._minimise(Terms(problem), known).state)
        return state

    def motion(self, state: State) -> State:
        """Pose and expression of all frames together under the motion prior, shape fixed."""
        problem, start, known = bridged(self.problem, state)
        result, count = start, len(problem.frame)
        for inner in torch.arange(count).split(WINDOW):
            first, stop = int(inner[0]), int(inner[-1]) + 1
            low = max(0, first - OVERLAP)
            rows = torch.arange(low, min(count, stop + OVERLAP))
            smooth = self._smooth(problem.select(rows), start.select(rows))
            result = result.put(inner, smooth.select(inner - low))
        return result.select(known)

    def _smooth(self, problem: Problem, state: State) -> State:
        prior: MotionPrior = motion_prior(problem.frame, self.expression_names, self.frame_rate_hz, self.config)
        # From frames fitted one by one every second difference is an outlier; squares bring them in first.
        squares = replace(prior, huber=SQUARES)
        state = self._minimise(Terms(problem, motion=squares), state, 4).state
        return self._minimise(Terms(problem, motion=prior), state).state

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

    def without(self, bad: Bool[Tensor, "f"], state: State) -> tuple[Fit, State]:
        """The fit and state of the other frames.

        Raises:
            UserError: there are no others.
        """
        good = torch.nonzero(~bad)[:, 0]
        if len(good) == 0:
            raise UserError("the face could not be tracked in any frame; use a video with a clearly visible face")
        return replace(self, problem=self.problem.select(good)), state.select(good)

    def with_measured_noise(self, state: State) -> Fit:
        """The same fit with each landmark's deviation and weight as its residuals say (``noise.py``)."""
        problem = self.problem
        residual, seen = residuals_px(problem, state) / problem.unit_px[:, None, None], problem.weight > 0
        typical = typical_deviation(residual, seen)
        low, high = (factor * self.config.landmark_sd_iod for factor in self.config.landmark_sd_range)
        own = 1 / sharing_errors(residual, seen, typical)
        weight = torch.maximum(self.points.weight, torch.minimum(self.points.most, own))
        return replace(
            self,
            problem=replace(
                problem,
                sigma=typical.nan_to_num(high).clamp(low, high),
                weight=problem.weight * (weight / self.points.weight),
            ),
        )
