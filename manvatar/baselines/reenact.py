"""One person's expression and motion on another person's landmarks.

Landmarks of the driver would carry the shape of the driver's face into the picture, and the network would draw that
face. What passes here is the driver's expression and the way their head moves; the face is that of the photo: its
identity, its personal offsets, its camera.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from manvatar.baselines.photo import Crop
from manvatar.errors import UserError
from manvatar.geometry import project, rigid, transform
from manvatar.tracking import landmarks_head_m
from manvatar.types import FaceModel, Track

Motion = Literal["relative", "absolute"]


@runtime_checkable
class Sitter(Protocol):
    """Who is shown: a photo, or a person made from several."""

    @property
    def track(self) -> Track:
        """Of one frame: identity, camera, pose."""

    @property
    def crop(self) -> Crop:
        """What the networks see of that camera's pictures."""


def driven_keypoints(
    photo: Sitter, driver: Track, face_model: FaceModel, motion: Motion = "relative"
) -> Float[Tensor, "frames 136"]:
    """Keypoints of the photo's person in every frame of the driver, in the photo's crop.

    Args:
        driver: frames without a face are as the tracker has filled them.
        motion: ``relative``: the head turns and moves from where it is in the photo as the driver's does from its mean;
            ``absolute``: it looks where the driver looks.

    Raises:
        UserError: photo and driver were not fitted with the same face model, or no frame of the driver is valid.
    """
    if driver.face_model != photo.track.face_model:
        raise UserError(
            f"the driver was tracked with the face model {driver.face_model} and the photo with "
            f"{photo.track.face_model}; name the driver's with --face-model, or give its video"
        )
    if not driver.valid.any():
        raise UserError("no frame of the driver shows a face that could be tracked; give another driver")
    poses = transferred_poses(photo.track.cam_from_head[0], driver.cam_from_head, driver.valid, motion)
    frames = len(poses)
    staged = dataclasses.replace(
        driver,
        camera=photo.track.camera,
        cam_from_head=poses,
        identity=photo.track.identity,
        landmark_offsets_m=photo.track.landmark_offsets_m,
        landmark_scheme=photo.track.landmark_scheme,
        residual_px=torch.zeros(frames),
        valid=torch.ones(frames, dtype=torch.bool),
    )
    points = transform(poses, landmarks_head_m(staged, face_model, "ibug68"))
    return photo.crop.keypoints(project(photo.track.camera, points)).float()


def transferred_poses(
    own: Float[Tensor, "4 4"], poses: Float[Tensor, "frames 4 4"], valid: Bool[Tensor, "frames"], motion: Motion
) -> Float[Tensor, "frames 4 4"]:
    """``cam_from_head`` of a head that is at ``own`` and moves as another does; see :func:`driven_keypoints`.

    Both heads are of a human's size, so metres of one are metres of the other, whatever their cameras.
    """
    rotation, translation = poses[:, :3, :3].double(), poses[:, :3, 3].double()
    mean = _nearest_rotation(rotation[valid].mean(0))
    # From the mean, so that a driver who sits elsewhere in their picture does not push the head out of this one.
    moved = own[:3, 3].double() + translation - translation[valid].mean(0)
    turned = rotation if motion == "absolute" else rotation @ mean.T @ own[:3, :3].double()
    return rigid(turned, moved).float()


def _nearest_rotation(matrix: Float[Tensor, "3 3"]) -> Float[Tensor, "3 3"]:
    u, _, v = torch.linalg.svd(matrix)
    sign = torch.ones(3, dtype=matrix.dtype)
    sign[2] = torch.det(u @ v).sign()
    return u * sign @ v
