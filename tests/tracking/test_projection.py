"""Landmarks of a track in head and picture."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from manvatar.benchmark.track_truth import Scene, Spoiling, make_truth, observe
from manvatar.tracking import track
from manvatar.tracking.projection import landmarks_head_m, landmarks_px
from manvatar.types import FaceModel


def test_landmarks_include_personal_offsets_and_the_model_is_checked(builtin: FaceModel) -> None:
    truth = make_truth(builtin, Scene(frames=20, yaw_sd_deg=12.0, expression_sd=0.3, scheme="ibug68"))
    found = track(observe(truth, Spoiling(noise_px=0.0, bias=0.028)), builtin, (512, 512), 25.0)
    plain = replace(found, landmark_offsets_m=torch.zeros(68, 3))
    difference = landmarks_head_m(found, builtin) - landmarks_head_m(plain, builtin)
    torch.testing.assert_close(difference, found.landmark_offsets_m.expand(20, 68, 3), rtol=1e-4, atol=1e-6)
    detected = observe(truth, Spoiling(noise_px=0.0, bias=0.028)).points_px[:, 17:]
    error, without = ((landmarks_px(t, builtin)[:, 17:] - detected).norm(dim=-1).mean() for t in (found, plain))
    assert float(error) < 0.5 < 1.5 < float(without)
    with pytest.raises(ValueError, match="was made with builtin"):
        landmarks_px(found, replace(builtin, id="another"))
