"""Tracks of heads whose motion, shape and camera are known: quick variants of ``manvatar.benchmark.tracking``."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from manvatar.benchmark import tracking as suite
from manvatar.benchmark.track_truth import (
    Errors,
    Scene,
    Spoiling,
    Truth,
    errors,
    gain,
    jitter_deg,
    make_truth,
    observe,
    similarity_rms,
)
from manvatar.geometry import rotation_from_vector
from manvatar.tracking import track
from manvatar.types import FaceModel, Landmarks, Track

QUICK = Scene(frames=120)
BIASED = Spoiling(bias=0.025, outliers=0.1)


def _errors(truth: Truth, spoiling: Spoiling, model: FaceModel) -> Errors:
    landmarks = observe(truth, spoiling)
    found = track(landmarks, model, truth.camera.size_px, suite.RATE_HZ)
    return errors(found, model, truth, landmarks)


def _perfect(truth: Truth, landmarks: Landmarks) -> Track:
    """The truth as a track of the clean landmarks."""
    count = len(truth.points_px)
    return Track(
        camera=truth.camera,
        cam_from_head=truth.cam_from_head.float(),
        identity=truth.identity.float(),
        expression=truth.expression.float(),
        landmark_offsets_m=torch.zeros(478, 3),
        residual_px=torch.zeros(count),
        valid=torch.ones(count, dtype=torch.bool),
        frame_rate_hz=25.0,
        landmark_scheme=landmarks.scheme,
        face_model=truth.model.id,
        expression_names=truth.model.expression_names,
        focal_source="given",
    )


@pytest.fixture(scope="module")
def turning(builtin: FaceModel) -> Truth:
    return make_truth(builtin, QUICK)


@pytest.fixture(scope="module")
def turning_ict(ict: FaceModel) -> Truth:
    return make_truth(ict, QUICK)


# --------------------------------------------------------------------------------------------------------- the measure


def test_the_truth_has_no_error(builtin: FaceModel, turning: Truth) -> None:
    landmarks = observe(turning, Spoiling(noise_px=0.0))
    e = errors(_perfect(turning, landmarks), builtin, turning, landmarks)
    assert e.rotation_deg < 0.01 and e.rotation_gauge_deg < 0.01 and e.jitter_deg < 0.01
    assert e.expression < 1e-4 and e.identity_mm < 1e-3 and e.shift_mm < 0.01 and e.reprojection_px < 0.02
    assert e.lost == 0


def test_known_errors_are_measured(builtin: FaceModel, turning: Truth) -> None:
    landmarks = observe(turning, Spoiling(noise_px=0.0))
    perfect = _perfect(turning, landmarks)
    tilt = torch.eye(4)
    tilt[:3, :3] = rotation_from_vector(torch.tensor([0.0, 0.05, 0.0]))
    e = errors(replace(perfect, cam_from_head=perfect.cam_from_head @ tilt), builtin, turning, landmarks)
    assert abs(e.rotation_deg - 2.865) < 0.01 and e.rotation_gauge_deg < 0.01
    e = errors(replace(perfect, expression=0.5 * perfect.expression), builtin, turning, landmarks)
    assert abs(e.expression - 0.5) < 1e-3
    valid = torch.arange(QUICK.frames) > 6
    assert errors(replace(perfect, valid=valid), builtin, turning, landmarks).lost == 7
    shaking = rotation_from_vector(0.01 * torch.randn(5000, 3, dtype=torch.float64))
    assert abs(jitter_deg(shaking) - 0.573) < 0.03 and abs(jitter_deg(shaking, typical=True) - 0.573) < 0.03
    shaking[1000] = rotation_from_vector(torch.tensor([0.0, 1.0, 0.0])).double()
    assert jitter_deg(shaking) > 0.6 and abs(jitter_deg(shaking, typical=True) - 0.573) < 0.03


def test_similarity_and_gain() -> None:
    points = torch.randn(40, 3, dtype=torch.float64)
    moved = 3 * points @ rotation_from_vector(torch.tensor([0.3, -1.0, 0.4])).double().T + 5
    assert similarity_rms(points, moved) < 1e-5
    assert similarity_rms(points, moved + 0.1 * torch.randn(40, 3)) > 0.1
    wave = torch.randn(100)
    assert abs(gain(0.7 * wave + 3, wave) - 0.7) < 1e-5


def test_spoiling_does_what_it_says(turning: Truth) -> None:
    clean = observe(turning, Spoiling(noise_px=0.0)).points_px
    shift = observe(turning, Spoiling(noise_px=0.0, bias=0.025)).points_px - clean
    assert 0.6 < float(shift.norm(dim=-1).square().mean().sqrt()) / (0.025 * turning.unit_px) < 1.1
    noise = observe(turning, Spoiling(noise_px=0.0, correlated_px=1.0)).points_px - clean
    assert abs(float(noise.std()) - 1) < 0.1
    assert 0.7 < float((noise[1:] * noise[:-1]).mean() / noise.square().mean()) < 0.9
    far = (observe(turning, Spoiling(noise_px=0.0, outliers=0.1)).points_px - clean).norm(dim=-1) > 1
    assert abs(float(far.float().mean()) - 0.1) < 0.01
    lost = observe(turning, Spoiling(lost=0.1))
    assert 0.1 <= float((~lost.detected).float().mean()) < 0.15
    assert torch.equal(lost.detected, torch.isfinite(lost.points_px).all(-1).all(-1))
    guessed = (observe(turning, Spoiling(noise_px=0.0, hidden=0.2)).points_px - clean).norm(dim=-1).mean(0)
    left = turning.neutral_m[:, 0] > 0
    assert float(guessed[~left].max()) == 0 and float(guessed[left].min()) > 0


# --------------------------------------------------------------------------------------------------------- the tracker


def test_same_model(builtin: FaceModel, turning: Truth) -> None:
    e = _errors(turning, Spoiling(), builtin)
    assert e.rotation_gauge_deg < 0.4 and e.expression_gauge < 0.35 and e.lost == 0


def test_same_model_as_it_comes(builtin: FaceModel, turning: Truth) -> None:
    for spoiling in (Spoiling(), BIASED, Spoiling(noise_px=0.3, correlated_px=1.0)):
        e = _errors(turning, spoiling, builtin)
        assert e.rotation_gauge_deg < 1.5 and e.lost == 0  # 120 frames hold few independent turns; 300 give half of it


def test_frames_between_lost_ones_are_kept(builtin: FaceModel, turning: Truth) -> None:
    e = _errors(turning, Spoiling(lost=0.1), builtin)
    assert e.lost == 0 and e.rotation_gauge_deg < 0.9


def test_a_hidden_half_spoils_only_its_frames(builtin: FaceModel, turning: Truth) -> None:
    landmarks = observe(turning, Spoiling(noise_px=0.5, hidden=0.2))
    found = track(landmarks, builtin, turning.camera.size_px, suite.RATE_HZ)
    outside = torch.ones(QUICK.frames, dtype=torch.bool)
    outside[int(0.3 * QUICK.frames) : int(0.5 * QUICK.frames)] = False
    assert found.valid[outside].all()
    kept = replace(found, valid=found.valid & outside)
    assert errors(kept, builtin, turning, landmarks).rotation_gauge_deg < 0.9


def test_still_head(builtin: FaceModel) -> None:
    truth = make_truth(builtin, Scene(frames=100, yaw_sd_deg=0.0, expression_sd=0.0))
    assert _errors(truth, Spoiling(), builtin).jitter_deg < 0.03


def test_blinks_and_mouth_keep_their_size(builtin: FaceModel) -> None:
    lids, lips = suite.gains(builtin, builtin, Scene(frames=100, yaw_sd_deg=0.0, blinks=True), Spoiling(noise_px=0.5))
    assert 0.9 < lids < 1.1 and 0.9 < lips < 1.1


def test_blinks_need_names(ict: FaceModel) -> None:
    with pytest.raises(ValueError, match="no expression eyeBlink"):
        make_truth(ict, Scene(frames=20, blinks=True))


def test_faces_of_another_model(builtin: FaceModel, turning_ict: Truth) -> None:
    e = _errors(turning_ict, BIASED, builtin)
    assert e.rotation_gauge_deg < 1.0 and e.lost == 0


@pytest.mark.slow
def test_faces_of_a_model_tracked_with_it(ict: FaceModel) -> None:
    for seed in (0, 1):
        truth = make_truth(ict, Scene(seed=seed))
        e = _errors(truth, Spoiling(seed=seed), ict)
        assert e.rotation_gauge_deg < 0.25 and e.expression < 0.25 and e.lost == 0


@pytest.mark.slow
def test_biased_faces_of_another_model(builtin: FaceModel, ict: FaceModel) -> None:
    for seed in (0, 1):
        e = _errors(make_truth(ict, Scene(seed=seed)), replace(BIASED, seed=seed), builtin)
        assert e.rotation_gauge_deg < 1.0 and e.lost == 0


def test_table(builtin: FaceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "CASES", (suite.Case("white", Scene(frames=30)),))
    monkeypatch.setattr(suite, "gains", lambda *_: (0.98, 1.02))
    head, columns, row, last = suite.lines(builtin, builtin)
    assert builtin.id in head and columns.split()[0] == "rotation" and row.startswith("white")
    assert len(row.split()) == 1 + len(columns.split()) - 1  # "x, y" is one column
    assert last.endswith("gain of the lids 0.98, of the lips 1.02")
