"""Stages of a fit that must not depend on how they are cut."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from manvatar.benchmark.track_truth import Scene, Spoiling, make_truth, observe
from manvatar.geometry import vector_from_rotation
from manvatar.tracking import stages, track
from manvatar.tracking.tracker import fit_landmarks
from manvatar.types import FaceModel


def test_a_long_clip_in_windows_is_tracked_as_in_one_piece(builtin: FaceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = make_truth(builtin, Scene(frames=150, yaw_sd_deg=12.0, scheme="ibug68"))
    landmarks = observe(truth, Spoiling(noise_px=0.5))
    seen = landmarks.detected.clone()
    seen[59:62] = False
    landmarks = dataclasses.replace(landmarks, detected=seen)
    whole = track(landmarks, builtin, (512, 512), 25.0)
    monkeypatch.setattr(stages, "WINDOW", 60)  # the first seam lies in the gap
    parts = track(landmarks, builtin, (512, 512), 25.0)
    angle = vector_from_rotation(parts.cam_from_head[:, :3, :3] @ whole.cam_from_head[:, :3, :3].transpose(1, 2))
    assert float(torch.rad2deg(angle.norm(dim=1)).max()) < 0.05
    assert float((parts.cam_from_head - whole.cam_from_head)[:, :3, 3].abs().max()) < 5e-4
    assert float((parts.expression - whole.expression).abs().max()) < 0.05


def test_neutral_landmarks_are_found_again_and_poses_stay(builtin: FaceModel) -> None:
    truth = make_truth(builtin, Scene(frames=30, yaw_sd_deg=12.0, scheme="ibug68"))
    fitted = fit_landmarks(observe(truth, Spoiling(noise_px=0.3)), builtin, (512, 512), 25.0)
    fit, state = fitted.fit, fitted.state
    best = fit.neutral(fit.problem, state)
    noise = torch.randn(state.shape_m.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wrong = dataclasses.replace(best, shape_m=best.shape_m + 0.002 * noise)
    again = fit.neutral(fit.problem, wrong)
    assert float((wrong.shape_m - best.shape_m).norm(dim=1).mean()) > 2e-3
    assert float((again.shape_m - best.shape_m).norm(dim=1).mean()) < 1e-4
    for name in ("rotation", "translation_m", "expression", "log_focal"):
        assert torch.equal(getattr(again, name), getattr(wrong, name))
