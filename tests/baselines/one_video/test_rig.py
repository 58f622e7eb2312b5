"""Landmarks that drive a 2D model: those of the track, and of the avatar's own face whoever drives it."""

from __future__ import annotations

import dataclasses

import torch
from baselines.one_video.small import builtin_track

from manvatar.baselines.one_video import LandmarkRig
from manvatar.baselines.one_video.rig import as_keypoints
from manvatar.tracking import landmarks_px
from manvatar.types import EYE_CHANNELS, Camera, Track


def test_the_rig_gives_the_landmarks_of_the_track() -> None:
    track, model = builtin_track()
    rig = LandmarkRig.from_track(track, model)
    found = rig.keypoints(track.expression, track.cam_from_head, track.camera)
    wanted = as_keypoints(landmarks_px(track, model, "ibug68"), track.camera)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_the_shape_of_the_driver_does_not_matter() -> None:
    """Somebody else's track with the same expression and pose drives the avatar to the same landmarks."""
    track, model = builtin_track()
    rig = LandmarkRig.from_track(track, model)
    driver = dataclasses.replace(track, identity=-2 * track.identity, landmark_offsets_m=-track.landmark_offsets_m)
    theirs = as_keypoints(landmarks_px(driver, model, "ibug68"), driver.camera)
    ours = as_keypoints(landmarks_px(track, model, "ibug68"), track.camera)
    driven = rig.keypoints(driver.expression, driver.cam_from_head, track.camera)
    assert (theirs - ours).abs().max() > 0.02
    torch.testing.assert_close(driven, ours, atol=1e-5, rtol=0)


def test_keypoints_of_a_camera_that_is_not_square() -> None:
    camera = Camera(torch.tensor([50.0, 50.0]), torch.tensor([40.0, 20.0]), (80, 40))
    points = torch.tensor([[20.0, 0.0], [60.0, 40.0], [40.0, 20.0]]).repeat(23, 1)[:68][None]
    keypoints = as_keypoints(points, camera).view(68, 2)
    torch.testing.assert_close(keypoints[:3], torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]]))


def _with_eyes(track: Track, eyes: torch.Tensor) -> Track:
    return dataclasses.replace(
        track,
        expression=torch.cat([track.expression, eyes], 1),
        expression_names=(*track.expression_names, *EYE_CHANNELS),
    )


def _heights_mm(points_m: torch.Tensor) -> torch.Tensor:
    """(frames, 4): both pairs of lid points of the left eye, then of the right."""
    return 1e3 * (points_m[:, [43, 44, 37, 38], 1] - points_m[:, [47, 46, 41, 40], 1])


def test_channels_of_the_lids_shut_them() -> None:
    """Each its own eye, in steps; whatever the face model's own coefficients leave open."""
    plain, model = builtin_track(12)
    track = _with_eyes(dataclasses.replace(plain, expression=0 * plain.expression), torch.zeros(12, 4))
    rig = LandmarkRig.from_track(track, model)
    rows = torch.zeros(4, track.expression.shape[1])
    left, right = (track.expression_names.index(name) for name in EYE_CHANNELS[:2])
    rows[1, left], rows[2, left], rows[3, right] = 1.0, 2.0, 2.0
    heights = _heights_mm(rig.points_m(rows))
    torch.testing.assert_close(heights[1], heights[0] * torch.tensor([0.55, 0.55, 1, 1]), rtol=1e-4, atol=0)
    torch.testing.assert_close(heights[2], heights[0] * torch.tensor([0.1, 0.1, 1, 1]), rtol=1e-4, atol=0)
    torch.testing.assert_close(heights[3], heights[0] * torch.tensor([1, 1, 0.1, 0.1]), rtol=1e-4, atol=0)
    lower, others = [47, 46, 41, 40], [*range(37), 39, 42, *range(48, 70)]
    assert torch.equal(*(rig.points_m(rows)[row][lower + others] for row in (0, 2)))


def test_the_face_models_own_blink_still_shuts_the_eyes() -> None:
    plain, model = builtin_track(12)
    track = _with_eyes(dataclasses.replace(plain, expression=0 * plain.expression), torch.zeros(12, 4))
    rig = LandmarkRig.from_track(track, model)
    rows = torch.zeros(2, track.expression.shape[1])
    rows[1, [model.expression_names.index(name) for name in ("eyeBlinkLeft", "eyeBlinkRight")]] = 2.0
    heights = _heights_mm(rig.points_m(rows))
    assert (heights[1] < 0.6 * heights[0]).all()


def test_lids_of_the_track_come_out_as_they_were() -> None:
    """Where coefficients and channels say the same, the rig's landmarks are the track's."""
    plain, model = builtin_track(40)
    names = model.expression_names
    expression = torch.zeros(40, len(names))
    expression[:, [names.index(name) for name in ("eyeBlinkLeft", "eyeBlinkRight")]] = torch.linspace(0, 2, 40)[:, None]
    average = {"identity": 0 * plain.identity, "landmark_offsets_m": 0 * plain.landmark_offsets_m}
    without = dataclasses.replace(plain, expression=expression, **average)
    heights = _heights_mm(LandmarkRig.from_track(without, model).points_m(expression))
    eyes = torch.zeros(40, 4)
    for eye in range(2):
        mean = heights[:, 2 * eye : 2 * eye + 2].mean(1)
        eyes[:, eye] = (1 - mean / mean[0]) / 0.45
    track = _with_eyes(without, eyes)
    found = _heights_mm(LandmarkRig.from_track(track, model).points_m(track.expression))
    assert heights[-1].max() < 0.35 * heights[0].mean()
    assert (found - heights).abs().max() < 0.15 * heights[0].mean()


def test_gaze_moves_the_irises() -> None:
    """To the subject's left and up, and the other 68 points stay."""
    plain, model = builtin_track()
    track = _with_eyes(plain, torch.zeros(plain.frame_count, 4))
    rig = LandmarkRig.from_track(track, model)
    rows = torch.zeros(3, track.expression.shape[1])
    yaw, pitch = (track.expression_names.index(name) for name in EYE_CHANNELS[2:])
    rows[1, yaw], rows[2, pitch] = 1.0, 1.0
    points = rig.points_m(rows)
    assert points.shape == (3, 70, 3) and torch.equal(points[0, :68], points[1, :68])
    for row, axis in ((1, 0), (2, 1)):
        moved = points[row, 68:] - points[0, 68:]
        torch.testing.assert_close(moved, 0.0018 * torch.eye(3)[axis].expand(2, 3), atol=1e-6, rtol=0)
    for iris, corners in ((68, (42, 45)), (69, (36, 39))):  # between its corners
        between = rig.neutral_m[list(corners)]
        assert (rig.neutral_m[iris] - between.mean(0))[:2].norm() < 0.2 * (between[0] - between[1]).norm()


def test_a_file_keeps_all_of_it() -> None:
    plain, model = builtin_track()
    track = _with_eyes(plain, torch.randn(plain.frame_count, 4))
    for each in (plain, track):
        rig = LandmarkRig.from_track(each, model)
        again = LandmarkRig.from_tensors(rig.tensors())
        assert (again.lids is None) == (each is plain)
        assert torch.equal(again.points_m(each.expression), rig.points_m(each.expression))
