"""Landmarks that drive a 2D model: those of the track, and of the avatar's own face whoever drives it."""

from __future__ import annotations

import dataclasses

import torch
from baselines.one_video.small import builtin_track

from manvatar.baselines.one_video import LandmarkRig
from manvatar.baselines.one_video.rig import as_keypoints
from manvatar.tracking import landmarks_px
from manvatar.types import EYE_CHANNELS, Camera


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


def test_lids_and_gaze_do_not_move_landmarks() -> None:
    """Their channels stand behind the face model's coefficients; the rig has rows of zeros for them."""
    track, model = builtin_track()
    extra = torch.randn(track.frame_count, len(EYE_CHANNELS))
    more = dataclasses.replace(
        track,
        expression=torch.cat([track.expression, extra], 1),
        expression_names=(*track.expression_names, *EYE_CHANNELS),
    )
    rig = LandmarkRig.from_track(more, model)
    assert len(rig.expression_m) == more.expression.shape[1] and rig.expression_m[-len(EYE_CHANNELS) :].abs().max() == 0
    wanted = LandmarkRig.from_track(track, model).keypoints(track.expression, track.cam_from_head, track.camera)
    torch.testing.assert_close(rig.keypoints(more.expression, track.cam_from_head, track.camera), wanted)
