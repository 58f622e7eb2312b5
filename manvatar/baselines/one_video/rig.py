"""The landmarks of one person as a function of expression and pose: what drives a 2D model.

They are the 68 iBUG points, and the centres of the irises where the track has gaze. Lids are shut by whichever says so:
the face model's own coefficients or the channels of the lids (``manvatar.types.EYE_CHANNELS``).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from manvatar.face_models.channels import GAZE_SD_RAD, SHUT
from manvatar.geometry import project, transform
from manvatar.tracking import landmarks_head_m
from manvatar.tracking.eyelids import EYES
from manvatar.tracking.gaze import RADIUS_M, eyeballs_m
from manvatar.types import EYE_CHANNELS, Camera, FaceModel, Track

_UPPER = torch.tensor([eye.upper for eye in EYES["ibug68"]])  # (eyes, pairs), as _LOWER
_LOWER = torch.tensor([eye.lower for eye in EYES["ibug68"]])
_CORNERS = torch.tensor([eye.corners for eye in EYES["ibug68"]])
_SHUT_SHARE = 0.1  # of the open eye's height, that the points of a shut one keep


@dataclass(frozen=True)
class Lids:
    """Height between paired points of the lids as the channels of the lids have it; left eye first."""

    open_m: Float[Tensor, "2 2"]  # (eyes, pairs)
    expression_m: Float[Tensor, "expression 2 2"]  # for one unit of each coefficient


@dataclass(frozen=True)
class LandmarkRig:
    """Points in the head frame, linear in the expression but for lids that are shut.

    They are the avatar's own: its identity, and the personal offsets that tracking has found. A driver gives an
    expression, that is a difference from the neutral face, and a pose; the shape of the driver's face never enters.
    """

    neutral_m: Float[Tensor, "points 3"]  # iBUG-68, then none or two irises
    expression_m: Float[Tensor, "expression points 3"]  # for one standard deviation of each coefficient
    lids: Lids | None = None

    @classmethod
    def from_track(cls, track: Track, face_model: FaceModel) -> LandmarkRig:
        """Of the person in ``track``. Raises ``ValueError`` when it was not made with ``face_model``."""
        count, names = track.expression.shape[1], track.expression_names
        probe = dataclasses.replace(
            track,
            expression=torch.cat([torch.zeros(1, count), torch.eye(count)]).to(track.expression),
            cam_from_head=torch.eye(4).expand(count + 1, 4, 4).to(track.cam_from_head),
            residual_px=torch.zeros(count + 1).to(track.residual_px),
            valid=torch.ones(count + 1, dtype=torch.bool),
        )
        points = landmarks_head_m(probe, face_model, "ibug68").float()
        if all(name in names for name in EYE_CHANNELS[2:]):
            points = torch.cat([points, _irises_m(points[0], names)], 1)
        rig = cls(points[0], points[1:] - points[0])
        if all(name in names for name in EYE_CHANNELS[:2]) and bool(track.valid.any()):
            return dataclasses.replace(rig, lids=_lids(rig, track.expression[track.valid].float(), names))
        return rig

    def points_m(self, expression: Float[Tensor, "*frames expression"]) -> Float[Tensor, "*frames points 3"]:
        """In the head frame; differentiable."""
        points = self.neutral_m + torch.einsum("...e,ekc->...kc", expression, self.expression_m)
        if self.lids is None:
            return points
        height = points[..., _UPPER, 1] - points[..., _LOWER, 1]
        said = self.lids.open_m + torch.einsum("...e,eip->...ip", expression, self.lids.expression_m)
        lowered = torch.zeros_like(points)
        lowered[..., _UPPER, 1] = torch.minimum(height, said.clamp_min(0)) - height
        return points + lowered

    def keypoints(
        self,
        expression: Float[Tensor, "frames expression"],
        cam_from_head: Float[Tensor, "frames 4 4"],
        camera: Camera,
    ) -> Float[Tensor, "frames coordinates"]:
        """What the networks take: x0, y0, ..., -1 and 1 on the borders of the camera's (largest, centred) square."""
        points = project(camera, transform(cam_from_head, self.points_m(expression)))
        return as_keypoints(points, camera)

    def to(self, device: torch.device | str) -> LandmarkRig:
        lids = None
        if self.lids is not None:
            lids = Lids(self.lids.open_m.to(device), self.lids.expression_m.to(device))
        return LandmarkRig(self.neutral_m.to(device), self.expression_m.to(device), lids)

    def tensors(self) -> dict[str, Tensor]:
        """What an avatar file keeps of it."""
        found = {"neutral_m": self.neutral_m, "expression_m": self.expression_m}
        if self.lids is not None:
            found |= {"lids.open_m": self.lids.open_m, "lids.expression_m": self.lids.expression_m}
        return found

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> LandmarkRig:
        """Of :meth:`tensors`. Raises ``KeyError`` when one is missing."""
        lids = None
        if "lids.open_m" in tensors:
            lids = Lids(tensors["lids.open_m"], tensors["lids.expression_m"])
        return cls(tensors["neutral_m"], tensors["expression_m"], lids)


def as_keypoints(points_px: Float[Tensor, "frames points 2"], camera: Camera) -> Float[Tensor, "frames coordinates"]:
    """Pixels of a camera -> -1 and 1 on the borders of its largest square in the middle."""
    size = torch.tensor(camera.size_px, dtype=points_px.dtype, device=points_px.device)
    return ((2 * points_px - size) / size.amin()).flatten(1)


def _irises_m(neutral_m: Float[Tensor, "68 3"], names: tuple[str, ...]) -> Float[Tensor, "rows 2 3"]:
    """Centres of the irises, first of the neutral face, then with one unit of each coefficient."""
    centre, _ = eyeballs_m(neutral_m[_CORNERS])
    points = (centre.float() + torch.tensor([0.0, 0.0, RADIUS_M])).repeat(len(names) + 1, 1, 1)
    for axis, name in enumerate(EYE_CHANNELS[2:]):  # yaw to the subject's left, which is x; pitch up, which is y
        points[1 + names.index(name), :, axis] += RADIUS_M * GAZE_SD_RAD
    return points


def _lids(rig: LandmarkRig, expression: Float[Tensor, "frames expression"], names: tuple[str, ...]) -> Lids:
    """Heights that fall to a tenth where a channel says shut, and fit those of the track best (least squares)."""
    points = rig.points_m(expression)
    height = points[:, _UPPER, 1] - points[:, _LOWER, 1]
    channels = [names.index(name) for name in EYE_CHANNELS[:2]]
    slope = (1 - _SHUT_SHARE) / SHUT
    part = (1 - slope * expression[:, channels])[:, :, None]
    open_m = (height * part).sum(0) / part.square().sum(0)
    change = torch.zeros(len(names), 2, 2)
    for eye, channel in enumerate(channels):
        change[channel, eye] = -slope * open_m[eye]
    return Lids(open_m, change)
