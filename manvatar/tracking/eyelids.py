"""How far each eye is shut, from its lid landmarks and relative to the person's own open eye.

Lid points are carried into the head frame along their rays, onto the plane of the eye's corners, so a turned or nodding
head does not look like a blink. The opening is the mean height between paired points of upper and lower lid. A person's
open eye is a high quantile of it over the clip; how small the detector reports a shut one is the lowest quantile, where
the clip has blinks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from manvatar.geometry import inverse_rigid, pixel_directions
from manvatar.types import Landmarks, LandmarkScheme, Track

OPEN_QUANTILE, SHUT_QUANTILE = 0.7, 0.005
SHUT_SHARE = 0.2  # of the open eye, where no frame of the clip shows less
LOWEST, HIGHEST = -1.0, 1.2  # closure: wide open, squeezed


@dataclass(frozen=True)
class EyePoints:
    """Landmarks of one eye."""

    upper: tuple[int, ...]  # pairs with `lower`
    lower: tuple[int, ...]
    corners: tuple[int, int]  # the one to the left of the picture in a frontal view first
    iris: int | None  # its centre


# The subject's left eye first, as in ``EYE_CHANNELS``.
EYES: dict[LandmarkScheme, tuple[EyePoints, EyePoints]] = {
    "mediapipe478": (
        EyePoints((385, 386, 387), (380, 374, 373), (362, 263), 473),
        EyePoints((160, 159, 158), (144, 145, 153), (33, 133), 468),
    ),
    "ibug68": (
        EyePoints((43, 44), (47, 46), (42, 45), None),
        EyePoints((37, 38), (41, 40), (36, 39), None),
    ),
}


def rays(track: Track, points_px: Float[Tensor, "frames points 2"]) -> tuple[Tensor, Tensor]:
    """Camera positions (frames, 3) and unit directions (frames, points, 3) through image points, in the head frame."""
    head_from_cam = inverse_rigid(track.cam_from_head.double())
    directions = pixel_directions(track.camera, points_px.double())
    return head_from_cam[:, :3, 3], directions @ head_from_cam[:, :3, :3].transpose(1, 2)


def openings_m(
    track: Track, landmarks: Landmarks, corners_m: Float[Tensor, "eyes corners 3"]
) -> Float[Tensor, "frames eyes"]:
    """Height between upper and lower lid, metres, left eye first; NaN where a frame has no landmarks.

    Args:
        corners_m: neutral eye corners in the head frame.
    """
    result = []
    for eye, corners in zip(EYES[landmarks.scheme], corners_m.double(), strict=True):
        points = landmarks.points_px[:, [*eye.upper, *eye.lower]]
        origin, direction = rays(track, points)
        # The plane through the corners that faces forwards: z is constant on it.
        reach = (corners[:, 2].mean() - origin[:, None, 2]) / direction[..., 2]
        height = origin[:, None, 1] + reach * direction[..., 1]
        upper, lower = height.split(len(eye.upper), 1)
        result.append((upper - lower).mean(1))
    return torch.stack(result, 1)


def closures(opening_m: Float[Tensor, "frames eyes"], usable: Bool[Tensor, "frames"]) -> Float[Tensor, "frames eyes"]:
    """0 = as open as this person's eye usually is, 1 = shut, negative = wider open. NaN stays NaN."""
    seen = opening_m[usable & opening_m.isfinite().all(1)]
    if len(seen) == 0:
        return torch.full_like(opening_m, torch.nan)
    opened = seen.quantile(OPEN_QUANTILE, dim=0)
    shut = torch.minimum(seen.quantile(SHUT_QUANTILE, dim=0), SHUT_SHARE * opened)
    return ((opened - opening_m) / (opened - shut).clamp_min(1e-6)).clamp(LOWEST, HIGHEST)
