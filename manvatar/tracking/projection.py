"""What a track says about the picture: the face's vertices and landmarks in every frame."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from manvatar.geometry import project, transform
from manvatar.landmarks import IBUG68_FROM_MEDIAPIPE478, ibug68_points
from manvatar.types import FaceModel, LandmarkScheme, Track


def landmarks_head_m(
    track: Track, face_model: FaceModel, scheme: LandmarkScheme | None = None
) -> Float[Tensor, "frames landmarks 3"]:
    """Landmarks of every frame in the head frame, metres, with the person's own offsets where the track has them.

    Args:
        scheme: default: the track's own. ``ibug68`` is also had from a ``mediapipe478`` track.

    Raises:
        ValueError: ``face_model`` is not the one the track was made with, or has no such landmarks.
    """
    if face_model.id != track.face_model:
        raise ValueError(f"landmarks_head_m: the track was made with {track.face_model}, not {face_model.id}")
    scheme = scheme or track.landmark_scheme
    if scheme == "ibug68" and track.landmark_scheme == "mediapipe478":
        # The 68 points among the track's 478, whose offsets are known; the model's own 68 where it lacks one.
        detected = ibug68_points(_landmarks(track, face_model, "mediapipe478", track.landmark_offsets_m))
        known = face_model.embedding("mediapipe478").weight[list(IBUG68_FROM_MEDIAPIPE478)] > 0
        return torch.where(known[:, None], detected, _landmarks(track, face_model, "ibug68", None))
    offsets = track.landmark_offsets_m if scheme == track.landmark_scheme else None
    return _landmarks(track, face_model, scheme, offsets)


def landmarks_px(
    track: Track, face_model: FaceModel, scheme: LandmarkScheme | None = None
) -> Float[Tensor, "frames landmarks 2"]:
    """:func:`landmarks_head_m` projected into the clip's frames, pixels."""
    points = transform(track.cam_from_head, landmarks_head_m(track, face_model, scheme))
    return project(track.camera, points)


def _landmarks(
    track: Track, face_model: FaceModel, scheme: LandmarkScheme, offsets: Float[Tensor, "landmarks 3"] | None
) -> Float[Tensor, "frames landmarks 3"]:
    mean, identity, expression = face_model.landmark_bases(scheme)
    person = mean + torch.einsum("i,ikc->kc", track.identity, identity)
    if offsets is not None:
        person = person + offsets
    return person + torch.einsum("fe,ekc->fkc", track.face_expression, expression)
