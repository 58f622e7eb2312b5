"""Where the eyes look: irises on eyeballs of known place and size, in closed form.

The eyeball's centre lies behind the middle of the eye's corners, by ``DEPTH`` of their distance; its radius is
``RADIUS_M``. The depth is such that a person who looks into the camera while the head turns is found to do so: the
slope of gaze against the direction of the camera is 0.9 and 1.1 in two clips (with 0.385, the constant of OpenSeeFace,
0.4 and 0.5). The ray through the iris meets that sphere in the point the eye looks through (the nearer solution of
|o + s d - c|^2 = r^2; where the ray passes by, the nearest point of the sphere). Yaw is about the head's y axis,
positive to the subject's left; pitch is positive up. Both eyes look alike, so their mean is taken, each with the weight
of how open it is; where both are shut the gaze goes on from where it was to where it will be.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from manvatar.face_models.channels import GAZE_SD_RAD, SHUT
from manvatar.tracking.eyelids import EYES, closures, openings_m, rays
from manvatar.tracking.projection import landmarks_head_m
from manvatar.types import EYE_CHANNELS, FaceModel, Landmarks, Track

DEPTH = 0.15
RADIUS_M = 0.012
MOST_RAD = 0.7
SHUT_AT = 0.5  # closure from which the iris is not believed
LID_SMOOTHING_S, GAZE_SMOOTHING_S = 0.015, 0.03  # standard deviations of the smoothing over time


def with_eye_channels(track: Track, landmarks: Landmarks, face_model: FaceModel) -> Track:
    """The track with lids and gaze appended to its expressions; gaze only where the landmarks have irises.

    Args:
        landmarks: those the track was made from.
        face_model: the one it was made with.
    """
    if any(name in track.expression_names for name in EYE_CHANNELS):
        raise ValueError("with_eye_channels: the track has channels of lids or gaze already")
    corners_m = _corners_m(track, face_model, landmarks)
    usable = track.valid & landmarks.detected
    closure = closures(openings_m(track, landmarks, corners_m), usable)
    lids = _smoothed(_filled(closure, usable), LID_SMOOTHING_S * track.frame_rate_hz)
    names, columns = EYE_CHANNELS[:2], [SHUT * lids]
    if all(eye.iris is not None for eye in EYES[landmarks.scheme]):
        angles, seen = _mean_gaze(gaze_rad(track, landmarks, corners_m), closure, usable)
        angles = _smoothed(_median3(_filled(angles, seen)), GAZE_SMOOTHING_S * track.frame_rate_hz)
        names, columns = EYE_CHANNELS, [*columns, angles / GAZE_SD_RAD]
    return replace(
        track,
        expression=torch.cat([track.expression, torch.cat(columns, 1).float()], 1),
        expression_names=(*track.expression_names, *names),
    )


def gaze_rad(
    track: Track, landmarks: Landmarks, corners_m: Float[Tensor, "eyes corners 3"]
) -> Float[Tensor, "frames eyes 2"]:
    """Yaw and pitch of each eye in the head frame, left eye first; NaN where a frame has no landmarks."""
    centre, across = eyeballs_m(corners_m)
    irises = landmarks.points_px[:, [eye.iris for eye in EYES[landmarks.scheme]]]
    origin, direction = rays(track, irises)
    to_centre = centre - origin[:, None]
    along = (to_centre * direction).sum(-1, keepdim=True)
    beside = (along * direction - to_centre).square().sum(-1, keepdim=True)  # squared distance of the ray
    reach = along - (RADIUS_M**2 - beside).clamp_min(0).sqrt()
    looks = torch.nn.functional.normalize(origin[:, None] + reach * direction - centre, dim=-1)
    yaw = torch.atan2(looks[..., 0], looks[..., 2])
    pitch = torch.asin(looks[..., 1].clamp(-1, 1))
    return torch.stack([yaw, pitch], -1).clamp(-MOST_RAD, MOST_RAD)


def eyeballs_m(corners_m: Float[Tensor, "eyes corners 3"]) -> tuple[Float[Tensor, "eyes 3"], Float[Tensor, "eyes"]]:
    """Centres of the eyeballs, head frame, and the distance between the corners of each eye."""
    corners_m = corners_m.double()
    across = (corners_m[:, 1] - corners_m[:, 0]).norm(dim=-1)
    behind = torch.stack([torch.zeros_like(across), torch.zeros_like(across), -DEPTH * across], -1)
    return corners_m.mean(1) + behind, across


def _corners_m(track: Track, face_model: FaceModel, landmarks: Landmarks) -> Float[Tensor, "eyes corners 3"]:
    """The person's neutral eye corners in the head frame."""
    neutral = replace(track, expression=torch.zeros_like(track.expression))
    points = landmarks_head_m(neutral, face_model, landmarks.scheme)[0]
    return torch.stack([points[list(eye.corners)] for eye in EYES[landmarks.scheme]])


def _mean_gaze(
    angles: Float[Tensor, "frames eyes 2"], closure: Float[Tensor, "frames eyes"], usable: Bool[Tensor, "frames"]
) -> tuple[Float[Tensor, "frames 2"], Bool[Tensor, "frames"]]:
    weight = (SHUT_AT - closure).clamp(0, SHUT_AT)
    weight = torch.where(angles.isfinite().all(-1) & usable[:, None], weight, torch.zeros_like(weight)).nan_to_num()
    total = weight.sum(1)
    mean = (angles.nan_to_num() * weight[..., None]).sum(1) / total.clamp_min(1e-9)[:, None]
    return mean, total > 0


def _filled(values: Float[Tensor, "frames n"], known: Bool[Tensor, "frames"]) -> Float[Tensor, "frames n"]:
    """Unknown frames linearly between their known neighbours; 0 where nothing is known at all."""
    known = known & values.isfinite().all(1)
    if not known.any():
        return torch.zeros_like(values)
    everything, there = np.arange(len(values)), known.nonzero()[:, 0].numpy()
    columns = [np.interp(everything, there, column[known].numpy()) for column in values.unbind(1)]
    return torch.from_numpy(np.stack(columns, 1))


def _median3(values: Float[Tensor, "frames n"]) -> Float[Tensor, "frames n"]:
    if len(values) < 3:
        return values
    padded = torch.cat([values[:1], values, values[-1:]])
    return torch.stack([padded[:-2], padded[1:-1], padded[2:]]).median(0).values


def _smoothed(values: Float[Tensor, "frames n"], sd_frames: float) -> Float[Tensor, "frames n"]:
    """Gaussian smoothing over time; the ends are mirrored."""
    reach = min(math.ceil(3 * sd_frames), len(values) - 1)
    if reach < 1:
        return values
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1).double() / sd_frames) ** 2)
    padded = torch.cat([values[1 : reach + 1].flip(0), values, values[-reach - 1 : -1].flip(0)])
    return torch.nn.functional.conv1d(padded.T[:, None], (kernel / kernel.sum())[None, None])[:, 0].T
