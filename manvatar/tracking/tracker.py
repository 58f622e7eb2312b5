"""Landmarks of a clip in, camera, identity, poses and expressions out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from manvatar.errors import UserError
from manvatar.geometry import rigid
from manvatar.landmarks import as_ibug68
from manvatar.tracking.config import TrackerConfig
from manvatar.tracking.failures import failed, interpolated, misfits
from manvatar.tracking.initialisation import weak_perspective
from manvatar.tracking.offsets import all_offsets
from manvatar.tracking.points import FitPoints, fit_points
from manvatar.tracking.problem import Problem, State, residuals_px
from manvatar.tracking.stages import Fit, LandmarkModel
from manvatar.types import Camera, FaceModel, Landmarks, Track

Progress = Callable[[float, str], None]
_MIN_POINTS = 6  # with fewer visible points a frame has no pose of its own


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
    fitted = fit_landmarks(
        landmarks,
        face_model,
        size_px,
        frame_rate_hz,
        focal_px=focal_px,
        config=config,
        leave_out=leave_out,
        progress=progress,
    )
    return fitted.track()


@dataclass(frozen=True)
class Fitted:
    """A fit to the landmarks of a clip, frames that failed left out: a track, or the start of a better one."""

    fit: Fit
    state: State
    landmarks: Landmarks
    face_model: FaceModel
    size_px: tuple[int, int]
    focal_source: Literal["prior", "estimated", "given"]

    def track(self) -> Track:
        """The track of all frames of the clip, gaps filled."""
        return _assemble(self.fit, self.state, self.landmarks, self.face_model, self.size_px, self.focal_source)

    def refined_to(self, state: State) -> Fitted:
        """The same fit at a better state, less the frames that have failed on the way."""
        fit, state = self.fit.without(failed(self.fit.problem, state, self.fit.frame_rate_hz), state)
        return replace(self, fit=fit, state=state)

    def identity(self) -> Float[Tensor, "I"]:
        """Identity coefficients, standard deviations."""
        return self.fit.shape_prior(len(self.fit.problem.frame)).split(self.state.shape_m)[0]


def fit_landmarks(
    landmarks: Landmarks,
    face_model: FaceModel,
    size_px: tuple[int, int],
    frame_rate_hz: float,
    *,
    focal_px: float | None = None,
    config: TrackerConfig | None = None,
    leave_out: tuple[int, ...] = (),
    progress: Progress | None = None,
) -> Fitted:
    """What :func:`track` does, before it is made a track; same arguments."""
    config, progress = config or TrackerConfig(), progress or (lambda share, what: None)
    progress(0.0, "first poses")
    if all(embedding.scheme != landmarks.scheme for embedding in face_model.embeddings):
        landmarks = as_ibug68(landmarks)
    points = fit_points(face_model, landmarks.scheme, leave_out, config.skin_weight)
    log_focal = math.log(focal_px if focal_px is not None else config.prior_focal_ratio * max(size_px))
    model = LandmarkModel.of(face_model, points)
    problem, state = _start(landmarks, points, model, size_px, log_focal, config)
    fit = Fit(problem, model, face_model.expression_names, frame_rate_hz, log_focal, config, points)
    source = "given" if focal_px is not None else "prior"
    for number in range(config.rounds):
        progress(0.1 + 0.85 * number / config.rounds, "shape of the face")
        may_free = number > 0 and source == "prior" and config.focal == "estimate"
        last = number + 1 == config.rounds
        keys = config.key_frames if last else min(config.first_key_frames, config.key_frames)
        state, estimated = fit.shape(state, keys, may_free)
        source = "estimated" if estimated else source
        progress(0.1 + 0.85 * (number + 0.4) / config.rounds, "pose and expression")
        state = fit.frames(state)
        if not last:
            fit = fit.with_measured_noise(state)
    state = fit.repair(state)
    fit, state = fit.without(misfits(fit.problem, state), state)
    state = fit.motion(state)
    progress(0.95, "failures")
    fit, state = fit.without(failed(fit.problem, state, fit.frame_rate_hz), state)
    progress(1.0, "done")
    return Fitted(fit, state, landmarks, face_model, size_px, source)


def _start(
    landmarks: Landmarks,
    points: FitPoints,
    model: LandmarkModel,
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


def _assemble(
    fit: Fit, state: State, landmarks: Landmarks, face_model: FaceModel, size_px: tuple[int, int], source: str
) -> Track:
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
