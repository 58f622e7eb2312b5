"""Driving: expression and motion pass, the shape of the driver's face does not."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from manvatar.baselines.photo import Crop, Photo
from manvatar.baselines.reenact import driven_keypoints, transferred_poses
from manvatar.errors import UserError
from manvatar.face_models import load
from manvatar.geometry import rigid, rotation_from_vector
from manvatar.tracking import landmarks_px
from manvatar.types import Camera, FaceModel, Track

_CROP = Crop(100, 50, 300)


@pytest.fixture(scope="module")
def face_model() -> FaceModel:
    return load("builtin")


def _track(face_model: FaceModel, frames: int, seed: int, focal_px: float = 800.0) -> Track:
    generator = torch.Generator().manual_seed(seed)
    turn = torch.randn(frames, 3, generator=generator, dtype=torch.float64) * 0.1
    facing = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
    away = torch.tensor([0.02, 0.01, 0.8], dtype=torch.float64) + 0.02 * torch.randn(
        frames, 3, generator=generator, dtype=torch.float64
    )
    count = len(face_model.expression_names)
    expression = torch.randn(frames, count, generator=generator) * 0.5
    identity = torch.randn(face_model.identity_basis_m.shape[0], generator=generator)
    return Track(
        camera=Camera(torch.tensor([focal_px, focal_px]), torch.tensor([250.0, 200.0]), (500, 400)),
        cam_from_head=rigid(rotation_from_vector(turn) @ facing, away).float(),
        identity=identity,
        expression=expression,
        landmark_offsets_m=0.002 * torch.randn(478, 3, generator=generator),
        residual_px=torch.zeros(frames),
        valid=torch.ones(frames, dtype=torch.bool),
        frame_rate_hz=25.0,
        landmark_scheme="mediapipe478",
        face_model=face_model.id,
        expression_names=face_model.expression_names,
        focal_source="given",
    )


def _photo(track: Track) -> Photo:
    blank = torch.zeros(1, 3, 8, 8)
    return Photo(blank, blank[:, :1], torch.zeros(1, 136), _CROP, track)


def test_a_photo_drives_itself_to_its_own_landmarks(face_model: FaceModel) -> None:
    track = _track(face_model, 1, 0)
    expected = _CROP.keypoints(landmarks_px(track, face_model, "ibug68"))
    for motion in ("relative", "absolute"):
        torch.testing.assert_close(driven_keypoints(_photo(track), track, face_model, motion), expected)


def test_the_shape_and_the_camera_of_the_driver_do_not_matter(face_model: FaceModel) -> None:
    photo = _photo(_track(face_model, 1, 0))
    driver = _track(face_model, 6, 1)
    other = dataclasses.replace(
        driver,
        identity=-2 * driver.identity,
        landmark_offsets_m=torch.zeros_like(driver.landmark_offsets_m),
        camera=Camera(torch.tensor([3000.0, 3000.0]), torch.tensor([10.0, 20.0]), (500, 400)),
    )
    first, second = driven_keypoints(photo, driver, face_model), driven_keypoints(photo, other, face_model)
    assert torch.equal(first, second)
    assert first.std(0).mean() > 0.005  # it moves


def test_the_expression_of_the_driver_passes(face_model: FaceModel) -> None:
    own = _track(face_model, 1, 0)
    driver = dataclasses.replace(_track(face_model, 1, 1), cam_from_head=own.cam_from_head)
    expected = dataclasses.replace(own, expression=driver.expression)
    torch.testing.assert_close(
        driven_keypoints(_photo(own), driver, face_model),
        _CROP.keypoints(landmarks_px(expected, face_model, "ibug68")),
    )


def test_relative_and_absolute_motion() -> None:
    def pose(yaw: float, x: float) -> torch.Tensor:
        return rigid(rotation_from_vector(torch.tensor([0.0, yaw, 0.0])), torch.tensor([x, 0.0, 1.0]))

    poses = torch.stack([pose(0.4 + step, 0.5 + step) for step in (-0.1, 0.0, 0.1)])
    own, valid = pose(-0.2, 0.0), torch.ones(3, dtype=torch.bool)
    relative = transferred_poses(own, poses, valid, "relative")
    for k, step in enumerate((-0.1, 0.0, 0.1)):
        torch.testing.assert_close(relative[k], pose(-0.2 + step, step), atol=1e-6, rtol=0)
    absolute = transferred_poses(own, poses, valid, "absolute")
    torch.testing.assert_close(absolute[:, :3, :3], poses[:, :3, :3])
    torch.testing.assert_close(absolute[:, :3, 3], relative[:, :3, 3])


def test_frames_without_a_face_do_not_shift_the_mean() -> None:
    poses = torch.eye(4).repeat(3, 1, 1)
    poses[2, 0, 3] = 100.0
    poses[2, :3, :3] = rotation_from_vector(torch.tensor([0.0, math.pi / 2, 0.0]))
    moved = transferred_poses(torch.eye(4), poses, torch.tensor([True, True, False]), "relative")
    torch.testing.assert_close(moved[:2], torch.eye(4).repeat(2, 1, 1))


def test_other_drivers_are_refused(face_model: FaceModel) -> None:
    photo, driver = _photo(_track(face_model, 1, 0)), _track(face_model, 2, 1)
    with pytest.raises(UserError, match="tracked with the face model other"):
        driven_keypoints(photo, dataclasses.replace(driver, face_model="other"), face_model)
    nothing = dataclasses.replace(driver, valid=torch.zeros(2, dtype=torch.bool))
    with pytest.raises(UserError, match="no frame of the driver"):
        driven_keypoints(photo, nothing, face_model)
