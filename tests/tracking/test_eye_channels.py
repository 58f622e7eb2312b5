"""Lids and gaze against truth: eyes that look where they are told, lids that shut when they are told."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from manvatar.avatars import turned
from manvatar.face_models import load
from manvatar.face_models.channels import GAZE_SD_RAD, SHUT
from manvatar.geometry import project, transform
from manvatar.tracking import landmarks_px, load_track, save_track
from manvatar.tracking.eyelids import EYES, closures, openings_m
from manvatar.tracking.gaze import RADIUS_M, eyeballs_m, gaze_rad, with_eye_channels
from manvatar.tracking.projection import landmarks_head_m
from manvatar.types import EYE_CHANNELS, Camera, FaceModel, Landmarks, Track

FRAMES = 60
BLINKS = {12: 1.0, 13: 2.0, 14: 2.0, 15: 1.0, 40: 2.0}  # frame: standard deviations of both blinks


@pytest.fixture(scope="module")
def model() -> FaceModel:
    return load("builtin")


def _track(model: FaceModel) -> Track:
    """A head that turns and nods, and blinks twice."""
    time = torch.linspace(0, 2 * math.pi, FRAMES)
    pose = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    pose[2, 3] = 0.6
    expression = torch.zeros(FRAMES, len(model.expression_names))
    for frame, value in BLINKS.items():
        for side in ("Left", "Right"):
            expression[frame, model.expression_names.index(f"eyeBlink{side}")] = value
    return Track(
        camera=Camera(torch.tensor([1200.0, 1200.0]), torch.tensor([320.0, 240.0]), (640, 480)),
        cam_from_head=turned(pose.expand(FRAMES, 4, 4), 0.35 * time.sin(), 0.2 * time.cos()),
        identity=torch.zeros(len(model.identity_basis_m)),
        expression=expression,
        landmark_offsets_m=torch.zeros(478, 3),
        residual_px=torch.zeros(FRAMES),
        valid=torch.ones(FRAMES, dtype=torch.bool),
        frame_rate_hz=25.0,
        landmark_scheme="mediapipe478",
        face_model=model.id,
        expression_names=model.expression_names,
    )


def _true_gaze() -> torch.Tensor:
    """(FRAMES, 2): yaw and pitch, radians, slow."""
    time = torch.linspace(0, 3 * math.pi, FRAMES).double()
    return torch.stack([0.4 * time.cos(), 0.2 * time.sin()], 1)


def _detected(track: Track, model: FaceModel) -> Landmarks:
    """What a perfect detector sees: the model's points, and irises on eyeballs that look as told."""
    points = landmarks_px(track, model).clone()
    corners = _corners(track, model)
    centre, _ = eyeballs_m(corners)
    yaw, pitch = _true_gaze().unbind(1)
    ahead = torch.stack([yaw.sin() * pitch.cos(), pitch.sin(), yaw.cos() * pitch.cos()], -1)
    irises = transform(track.cam_from_head.double(), centre + RADIUS_M * ahead[:, None])
    for eye, place in zip(EYES["mediapipe478"], project(track.camera, irises).unbind(1), strict=True):
        points[:, eye.iris] = place.float()
    return Landmarks(points, torch.ones(points.shape[:2]), torch.ones(FRAMES, dtype=torch.bool), "mediapipe478")


def _corners(track: Track, model: FaceModel) -> torch.Tensor:
    neutral = landmarks_head_m(replace(track, expression=torch.zeros_like(track.expression)), model)[0]
    return torch.stack([neutral[list(eye.corners)] for eye in EYES["mediapipe478"]])


@pytest.fixture(scope="module")
def clip(model: FaceModel) -> tuple[Track, Landmarks]:
    track = _track(model)
    return track, _detected(track, model)


def test_gaze_is_exact_for_perfect_irises(clip: tuple[Track, Landmarks], model: FaceModel) -> None:
    track, landmarks = clip
    found = gaze_rad(track, landmarks, _corners(track, model))
    assert (found - _true_gaze()[:, None]).abs().max() < 2e-3


def test_left_is_the_subjects_left(model: FaceModel) -> None:
    left, right = _corners(_track(model), model)[:, :, 0].mean(1)
    assert float(left) > 0.02 and float(right) < -0.02


def test_an_iris_beside_the_eyeball_is_no_number_out_of_range(clip: tuple[Track, Landmarks], model: FaceModel) -> None:
    track, landmarks = clip
    points = landmarks.points_px.clone()
    points[3, 473] += 300
    found = gaze_rad(track, replace(landmarks, points_px=points), _corners(track, model))
    assert bool(found[3].isfinite().all()) and float(found[3].abs().max()) <= 0.7


def test_openings_do_not_see_the_head_turn(clip: tuple[Track, Landmarks], model: FaceModel) -> None:
    track, landmarks = clip
    opening = openings_m(track, landmarks, _corners(track, model))
    open_frames = [frame for frame in range(FRAMES) if frame not in BLINKS]
    still = opening[open_frames]
    assert float(still.std(0).max() / still.mean()) < 0.06
    assert float(opening[13].max() / still.mean()) < 0.2


def test_channels(clip: tuple[Track, Landmarks], model: FaceModel) -> None:
    track, landmarks = clip
    result = with_eye_channels(track, landmarks, model)
    count = len(model.expression_names)
    assert result.expression_names == (*model.expression_names, *EYE_CHANNELS)
    assert torch.equal(result.face_expression, track.expression)
    lids, gaze = result.expression[:, count : count + 2], result.expression[:, count + 2 :]
    assert float(lids[13].min()) > 0.9 * SHUT and float(lids[40].min()) > 0.75 * SHUT  # one frame long
    assert float(lids[20:35].abs().max()) < 0.25
    truth = _true_gaze().float() / GAZE_SD_RAD
    assert (gaze - truth).abs().max() < 0.15  # also in the frames in which the lids are shut


def test_gaze_is_held_behind_shut_lids(clip: tuple[Track, Landmarks], model: FaceModel) -> None:
    track, landmarks = clip
    points = landmarks.points_px.clone()
    points[13:15, 468:478] += torch.tensor([15.0, 30.0])  # what a detector makes of an iris that it does not see
    jumped = with_eye_channels(track, replace(landmarks, points_px=points), model)
    calm = with_eye_channels(track, landmarks, model)
    assert (jumped.expression - calm.expression)[:, -2:].abs().max() < 0.5
    wrong = gaze_rad(track, replace(landmarks, points_px=points), _corners(track, model))[13] - _true_gaze()[13]
    assert float(wrong.abs().max()) > 0.3  # what would have come of it


def test_frames_without_a_face_are_filled_in(clip: tuple[Track, Landmarks], model: FaceModel) -> None:
    track, landmarks = clip
    points, detected = landmarks.points_px.clone(), landmarks.detected.clone()
    points[25:28], detected[25:28] = torch.nan, False
    lost = replace(track, valid=track.valid & detected)
    result = with_eye_channels(lost, replace(landmarks, points_px=points, detected=detected), model)
    whole = with_eye_channels(track, landmarks, model)
    assert bool(result.expression.isfinite().all())
    assert (result.expression - whole.expression)[:, -4:].abs().max() < 0.2


def test_without_any_face_there_is_nothing_to_measure() -> None:
    nothing = closures(torch.full((5, 2), torch.nan).double(), torch.zeros(5, dtype=torch.bool))
    assert bool(nothing.isnan().all())


def test_68_points_have_lids_and_no_gaze(clip: tuple[Track, Landmarks], model: FaceModel) -> None:
    track, _ = clip
    track = replace(track, landmark_scheme="ibug68", landmark_offsets_m=torch.zeros(68, 3))
    points = landmarks_px(track, model)
    landmarks = Landmarks(points, torch.ones(FRAMES, 68), torch.ones(FRAMES, dtype=torch.bool), "ibug68")
    result = with_eye_channels(track, landmarks, model)
    assert result.expression_names[-2:] == EYE_CHANNELS[:2]
    assert float(result.expression[13, -2:].min()) > 0.8 * SHUT


def test_twice_is_once_too_often(clip: tuple[Track, Landmarks], model: FaceModel) -> None:
    once = with_eye_channels(*clip, model)
    with pytest.raises(ValueError, match="already"):
        with_eye_channels(once, clip[1], model)


def test_a_track_with_channels_keeps_its_mesh(
    clip: tuple[Track, Landmarks], model: FaceModel, tmp_path: object
) -> None:
    track, landmarks = clip
    whole = with_eye_channels(track, landmarks, model)
    assert torch.equal(landmarks_px(whole, model), landmarks_px(track, model))
    save_track(whole, tmp_path / "t.safetensors")
    again = load_track(tmp_path / "t.safetensors")
    assert again.expression_names == whole.expression_names
    assert torch.equal(again.expression, whole.expression)
