"""The 68 landmarks of one person as a function of expression and pose: what drives a 2D model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from manvatar.geometry import project, transform
from manvatar.tracking import landmarks_head_m
from manvatar.types import Camera, FaceModel, Track


@dataclass(frozen=True)
class LandmarkRig:
    """iBUG-68 points in the head frame, linear in the expression.

    They are the avatar's own: its identity, and the personal offsets that tracking has found. A driver gives an
    expression, that is a difference from the neutral face, and a pose; the shape of the driver's face never enters.
    """

    neutral_m: Float[Tensor, "68 3"]
    expression_m: Float[Tensor, "expression 68 3"]  # for one standard deviation of each coefficient

    @classmethod
    def from_track(cls, track: Track, face_model: FaceModel) -> LandmarkRig:
        """Of the person in ``track``. Raises ``ValueError`` when it was not made with ``face_model``."""
        count = track.expression.shape[1]
        probe = dataclasses.replace(
            track,
            expression=torch.cat([torch.zeros(1, count), torch.eye(count)]).to(track.expression),
            cam_from_head=torch.eye(4).expand(count + 1, 4, 4).to(track.cam_from_head),
            residual_px=torch.zeros(count + 1).to(track.residual_px),
            valid=torch.ones(count + 1, dtype=torch.bool),
        )
        points = landmarks_head_m(probe, face_model, "ibug68").float()
        return cls(points[0], points[1:] - points[0])

    def points_m(self, expression: Float[Tensor, "*frames expression"]) -> Float[Tensor, "*frames 68 3"]:
        """In the head frame; differentiable."""
        return self.neutral_m + torch.einsum("...e,ekc->...kc", expression, self.expression_m)

    def keypoints(
        self,
        expression: Float[Tensor, "frames expression"],
        cam_from_head: Float[Tensor, "frames 4 4"],
        camera: Camera,
    ) -> Float[Tensor, "frames 136"]:
        """What the networks take: x0, y0, ..., -1 and 1 on the borders of the camera's (largest, centred) square."""
        points = project(camera, transform(cam_from_head, self.points_m(expression)))
        return as_keypoints(points, camera)

    def to(self, device: torch.device | str) -> LandmarkRig:
        return LandmarkRig(self.neutral_m.to(device), self.expression_m.to(device))


def as_keypoints(points_px: Float[Tensor, "frames 68 2"], camera: Camera) -> Float[Tensor, "frames 136"]:
    """Pixels of a camera -> -1 and 1 on the borders of its largest square in the middle."""
    size = torch.tensor(camera.size_px, dtype=points_px.dtype, device=points_px.device)
    return ((2 * points_px - size) / size.amin()).flatten(1)
