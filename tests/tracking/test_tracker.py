"""Tracks of heads whose motion, shape and camera are known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from manvatar.benchmark.track_truth import (
    Scene,
    Spoiling,
    Truth,
    gain,
    jitter_deg,
    make_truth,
    observe,
    openings,
    rotation_errors_deg,
)
from manvatar.errors import UserError
from manvatar.tracking import TrackerConfig, track
from manvatar.tracking.projection import landmarks_px
from manvatar.types import FaceModel, Landmarks, Track

FRAMES, SIZE_PX, RATE_HZ = 100, (512, 512), 25.0
TURNING = Scene(frames=FRAMES, yaw_sd_deg=12.0, face_share=0.4, scheme="ibug68")
STILL = replace(TURNING, yaw_sd_deg=0.0, expression_sd=0.0)


def _fit(model: FaceModel, landmarks: Landmarks, **options) -> Track:
    return track(landmarks, model, SIZE_PX, RATE_HZ, **options)


def _without(landmarks: Landmarks, missing: tuple[int, ...]) -> Landmarks:
    """The landmarks with some frames lost."""
    points, confidence, detected = landmarks.points_px.clone(), landmarks.confidence.clone(), landmarks.detected.clone()
    rows = list(missing)
    points[rows], confidence[rows], detected[rows] = math.nan, 0, False
    return Landmarks(points, confidence, detected, landmarks.scheme)


def _jitter_deg(found: Track) -> float:
    return jitter_deg(found.cam_from_head[:, :3, :3].double())


@pytest.fixture(scope="module")
def turning(builtin: FaceModel) -> Truth:
    return make_truth(builtin, TURNING)


def test_clean_landmarks(builtin: FaceModel, turning: Truth) -> None:
    found = _fit(builtin, observe(turning, Spoiling(noise_px=0.0)))
    assert found.valid.all() and found.focal_source == "prior"
    assert float(found.residual_px.median()) < 0.2
    assert float(rotation_errors_deg(found, turning).median()) < 0.2
    distance = found.cam_from_head[:, 2, 3] / turning.cam_from_head[:, 2, 3]
    assert float(distance.std() / distance.mean()) < 0.005  # its scale is a matter of the prior, its change is not
    assert found.cam_from_head.dtype == torch.float32
    torch.testing.assert_close(torch.det(found.cam_from_head[:, :3, :3]), torch.ones(FRAMES))


def test_noise(builtin: FaceModel, turning: Truth) -> None:
    found = _fit(builtin, observe(turning, Spoiling(noise_px=1.0)))
    assert found.valid.all()
    assert float(rotation_errors_deg(found, turning).median()) < 0.7
    # The fit lies nearer to the true landmarks than the detections do (1 px each axis: 1.41).
    error = (landmarks_px(found, builtin)[:, 17:] - turning.points_px[:, 17:]).norm(dim=-1)
    assert float(error.square().mean().sqrt()) < 0.8


def test_bias_and_outliers(builtin: FaceModel, turning: Truth) -> None:
    found = _fit(builtin, observe(turning, Spoiling(noise_px=0.5, bias=0.028, outliers=0.1)))
    assert found.valid.all()
    assert float(rotation_errors_deg(found, turning).median()) < 1.5


def test_personal_offsets_take_up_the_bias(builtin: FaceModel, turning: Truth) -> None:
    landmarks = observe(turning, Spoiling(noise_px=0.3, bias=0.028))
    with_offsets, without = (_fit(builtin, landmarks, config=TrackerConfig(offset_sd_m=sd)) for sd in (0.003, 1e-5))
    assert float(with_offsets.residual_px.median()) < 0.5 * float(without.residual_px.median())
    assert float(with_offsets.expression.mean(0).norm()) < float(without.expression.mean(0).norm())


def test_lost_frames_are_filled_and_flagged(builtin: FaceModel, turning: Truth) -> None:
    missing = (0, 1, *range(40, 46), 99)
    found = _fit(builtin, _without(observe(turning, Spoiling(noise_px=0.5)), missing))
    lost = torch.zeros(FRAMES, dtype=torch.bool)
    lost[list(missing)] = True
    assert torch.equal(found.valid, ~lost)
    assert torch.equal(torch.isnan(found.residual_px), lost)
    assert torch.isfinite(found.cam_from_head).all() and torch.isfinite(found.expression).all()
    assert torch.equal(found.cam_from_head[0], found.cam_from_head[2])
    assert float(rotation_errors_deg(found, turning)[40:46].max()) < 8


def test_a_frame_of_nonsense_is_flagged_and_does_no_harm(builtin: FaceModel, turning: Truth) -> None:
    clean = observe(turning, Spoiling(noise_px=0.5))
    points = clean.points_px.clone()
    points[50] = 512 * torch.rand(68, 2)
    found = _fit(builtin, replace(clean, points_px=points))
    assert not found.valid[50] and int(found.valid.sum()) >= FRAMES - 1
    assert float(rotation_errors_deg(found, turning)[[47, 48, 49, 51, 52, 53]].max()) < 2.5


def test_static_head_stays_still(builtin: FaceModel) -> None:
    truth = make_truth(builtin, STILL)
    assert _jitter_deg(_fit(builtin, observe(truth, Spoiling(noise_px=0.5)))) < 0.03


def test_blinks_and_an_open_mouth_are_not_smoothed_away(builtin: FaceModel) -> None:
    truth = make_truth(builtin, replace(STILL, blinks=True))
    found = landmarks_px(_fit(builtin, observe(truth, Spoiling(noise_px=0.3))), builtin)
    for pair in ((37, 41), (44, 46), (62, 66)):
        assert 0.9 < gain(openings(found, (pair,)), openings(truth.points_px, (pair,))) < 1.15


def test_smoothing_follows_the_frame_rate(builtin: FaceModel) -> None:
    truth = make_truth(builtin, STILL)
    landmarks = observe(truth, Spoiling(noise_px=1.0))
    fast, slow = (_jitter_deg(track(landmarks, builtin, SIZE_PX, rate)) for rate in (60.0, 10.0))
    assert fast < 0.5 * slow


def test_given_focal_length_is_kept(builtin: FaceModel, turning: Truth) -> None:
    found = _fit(builtin, observe(turning, Spoiling()), focal_px=1234.0)
    assert found.focal_source == "given"
    assert found.camera.focal_px.tolist() == [1234.0, 1234.0]


def test_focal_length_is_estimated_only_where_the_head_turns(builtin: FaceModel) -> None:
    # Landmarks as good as these tell more than a real detector's.
    config = TrackerConfig(focal="estimate", prior_focal_ratio=1.35, landmark_sd_range=(0.2, 3.0))
    still = make_truth(builtin, replace(TURNING, yaw_sd_deg=2.0, focal_px=1000.0))
    assert _fit(builtin, observe(still, Spoiling(noise_px=0.3)), config=config).focal_source == "prior"
    turned = make_truth(builtin, replace(TURNING, yaw_sd_deg=25.0, focal_px=1000.0))
    found = _fit(builtin, observe(turned, Spoiling(noise_px=0.3)), config=config)
    assert found.focal_source == "estimated"
    # Not exact even so, but nearer than the prior.
    error, before = (abs(math.log(focal / 1000)) for focal in (float(found.camera.focal_px[0]), 1.35 * 512))
    assert error < 0.75 * before


def test_few_frames(builtin: FaceModel, turning: Truth) -> None:
    whole = observe(turning, Spoiling(noise_px=0.5))
    for count in (1, 2, 5):
        part = Landmarks(whole.points_px[:count], whole.confidence[:count], whole.detected[:count], whole.scheme)
        found = _fit(builtin, part)
        assert found.frame_count == count and found.valid.all()


def test_no_face_is_a_users_mistake(builtin: FaceModel, turning: Truth) -> None:
    with pytest.raises(UserError, match="no frame of the video shows a face"):
        _fit(builtin, _without(observe(turning, Spoiling()), tuple(range(FRAMES))))


def test_same_input_same_track(builtin: FaceModel, turning: Truth) -> None:
    landmarks = observe(turning, Spoiling())
    one, two = _fit(builtin, landmarks), _fit(builtin, landmarks)
    assert torch.equal(one.cam_from_head, two.cam_from_head) and torch.equal(one.expression, two.expression)


def test_a_face_the_model_has_never_seen(builtin: FaceModel, ict: FaceModel) -> None:
    truth = make_truth(ict, replace(TURNING, yaw_sd_deg=20.0))
    found = _fit(builtin, observe(truth, Spoiling(noise_px=0.5, outliers=0.1)))
    assert found.valid.all()
    assert float(rotation_errors_deg(found, truth).median()) < 1.5


def test_progress_rises_to_one(builtin: FaceModel, turning: Truth) -> None:
    seen: list[float] = []
    _fit(builtin, observe(turning, Spoiling()), progress=lambda share, what: seen.append(share))
    assert seen == sorted(seen) and seen[0] == 0 and seen[-1] == 1
