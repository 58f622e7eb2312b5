"""Personal offsets of landmarks that took no part in the fit, in closed form.

With pose and expression fixed, an offset d moves the projection by ``G_f d`` (first order), so it solves a 3x3
system of all frames; a reweighted round or two keeps outliers out.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from manvatar.tracking.config import TrackerConfig
from manvatar.tracking.problem import State, huber_weight
from manvatar.types import FaceModel, Landmarks

MOST_FRAMES = 1000  # evenly spread; more say nothing new about three numbers


def all_offsets(
    landmarks: Landmarks,
    face_model: FaceModel,
    state: State,
    frame: Tensor,
    unit_px: Float[Tensor, "f"],
    identity: Float[Tensor, "I"],
    center_px: Float[Tensor, "2"],
    config: TrackerConfig,
    rounds: int = 3,
) -> Float[Tensor, "landmarks 3"]:
    """Offset of every landmark of the scheme, metres, head frame; 0 where the model has no such point.

    Args:
        state: poses and expressions of the frames ``frame`` of the clip, and the focal length. Its shape is not used.
        unit_px: size of the face in those frames, as in ``Problem``.
    """
    if len(frame) > MOST_FRAMES:
        spread = torch.linspace(0, len(frame) - 1, MOST_FRAMES).round().long()
        state, frame, unit_px = state.select(spread), frame[spread], unit_px[spread]
    mean, identity_basis, expression_basis = (x.double() for x in face_model.landmark_bases(landmarks.scheme))
    trust = face_model.embedding(landmarks.scheme).weight > 0
    target = landmarks.points_px[frame].double() - center_px.double()
    confidence = landmarks.confidence[frame].double()
    confidence = torch.where(torch.isfinite(target).all(-1) & trust, confidence, torch.zeros_like(confidence))
    target = target.nan_to_num()
    person = mean + torch.einsum("i,inc->nc", identity, identity_basis)
    moving = torch.einsum("fe,enc->fnc", state.expression, expression_basis)
    precision = max(len(frame) / config.effective_frames, 1.0) / config.offset_sd_m**2
    offsets = torch.zeros_like(person)
    for _ in range(rounds):
        rotated = (person + offsets + moving) @ state.rotation.transpose(1, 2)
        points = rotated + state.translation_m[:, None]
        residual = points[..., :2] / points[..., 2:] * state.log_focal.exp() - target
        scale = 1 / (config.landmark_sd_iod * unit_px[:, None])
        weight = confidence * scale**2 * huber_weight(residual.norm(dim=-1) * scale, config.huber)
        # D R, row by row: (f, n, 2, 3)
        focal_z = (state.log_focal.exp() / points[..., 2])[..., None, None]
        slope = torch.cat([torch.eye(2).double().expand(*points.shape[:2], 2, 2), -_ratio(points)], -1) * focal_z
        slope = slope @ state.rotation[:, None]
        matrix = torch.einsum("fn,fnic,fnid->ncd", weight, slope, slope) + precision * torch.eye(3).double()
        right = torch.einsum("fn,fnic,fni->nc", weight, slope, residual) + precision * offsets
        offsets = offsets - torch.linalg.solve(matrix, right)
    return torch.where(trust[:, None], offsets, torch.zeros_like(offsets)).float()


def _ratio(points: Float[Tensor, "f n 3"]) -> Float[Tensor, "f n 2 1"]:
    return (points[..., :2] / points[..., 2:])[..., None]
