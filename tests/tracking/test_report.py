"""What the report says of good tracks and of bad ones."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from manvatar.errors import UserError
from manvatar.face_models import load
from manvatar.geometry import rigid, rotation_from_vector
from manvatar.tracking.overlay import head_angles_deg
from manvatar.tracking.report import measure, verdict
from manvatar.tracking.report_picture import write_report
from manvatar.types import EYE_CHANNELS, Camera, FaceModel, Track

FRAMES = 200


@pytest.fixture(scope="module")
def model() -> FaceModel:
    return load("builtin")


@pytest.fixture(scope="module")
def good(model: FaceModel) -> Track:
    """A head that turns slowly, moves everything and blinks three times."""
    time = torch.linspace(0, 4 * math.pi, FRAMES)
    names = (*model.expression_names, *EYE_CHANNELS)
    expression = torch.stack([(time + k).sin() for k in range(len(names))], 1)
    expression[:, -4:-2] = 0
    for blink in (20, 90, 91, 160):
        expression[blink, -4:-2] = 2.0
    rotation = rotation_from_vector(torch.stack([0.2 * time.cos(), 0.3 * time.sin(), 0 * time], 1))
    facing = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    return Track(
        camera=Camera(torch.tensor([1200.0, 1200.0]), torch.tensor([320.0, 240.0]), (640, 480)),
        cam_from_head=rigid(facing @ rotation, torch.tensor([0.0, 0.0, 0.7]).expand(FRAMES, 3)),
        identity=torch.zeros(len(model.identity_basis_m)),
        expression=expression,
        landmark_offsets_m=torch.zeros(478, 3),
        residual_px=torch.full((FRAMES,), 1.0),
        valid=torch.ones(FRAMES, dtype=torch.bool),
        frame_rate_hz=25.0,
        landmark_scheme="mediapipe478",
        face_model=model.id,
        expression_names=names,
        focal_source="given",
    )


def _said(track: Track, model: FaceModel) -> tuple[str, str]:
    headline, notes = verdict(measure(track, model), track.expression_names)
    return headline, " ".join(notes)


def test_a_good_track(good: Track, model: FaceModel) -> None:
    report = measure(good, model)
    assert report.valid_share == 1 and report.gaps == () and report.blinks == 3 and report.jumps == ()
    # Outer eye corners 87 mm apart at 0.7 m and 1200 px: about 150 px.
    assert report.residual_median == pytest.approx(1 / 150, rel=0.1)
    assert float(report.angle_range_deg[0]) == pytest.approx(math.degrees(0.6), rel=0.05)
    headline, notes = _said(good, model)
    assert headline.startswith("Nothing here") and notes == "Focal length 1.88 x the longer side was given."


def test_white_noise_on_the_rotation_is_measured(good: Track, model: FaceModel) -> None:
    noise = math.radians(0.5) * torch.randn(FRAMES, 3, generator=torch.Generator().manual_seed(0))
    poses = good.cam_from_head.clone()
    poses[:, :3, :3] = rotation_from_vector(noise) @ poses[0, :3, :3]
    still = measure(replace(good, cam_from_head=poses), model)
    assert still.jitter_deg == pytest.approx(0.5, rel=0.15)
    assert measure(good, model).jitter_deg < 0.05
    headline, notes = _said(replace(good, cam_from_head=poses), model)
    assert headline.startswith("Do not trust") and "trembles" in notes and "of yaw only" in notes


def test_lost_frames(good: Track, model: FaceModel) -> None:
    valid = good.valid.clone()
    valid[50:80] = False
    valid[198:] = False
    residual = torch.where(valid, good.residual_px, torch.full_like(good.residual_px, math.nan))
    lost = replace(good, valid=valid, residual_px=residual)
    report = measure(lost, model)
    assert report.gaps == ((50, 80), (198, 200)) and report.residual_share.isnan().sum() == 32
    headline, notes = _said(lost, model)
    assert headline.startswith("Do not trust") and "lost in 16 %" in notes


def test_a_bad_fit_a_jump_and_a_stiff_face(good: Track, model: FaceModel) -> None:
    loose = replace(good, residual_px=good.residual_px * 3)
    assert _said(loose, model)[0].startswith("Usable")
    assert _said(replace(good, residual_px=good.residual_px * 6), model)[0].startswith("Do not trust")
    poses = good.cam_from_head.clone()
    poses[120, :3, :3] = poses[120, :3, :3] @ rotation_from_vector(torch.tensor([0.0, 0.2, 0.0]))
    assert measure(replace(good, cam_from_head=poses), model).jumps == (120,)
    stiff = replace(good, expression=torch.zeros_like(good.expression), focal_source="prior")
    notes = _said(stiff, model)[1]
    assert "No blink" in notes and "jawOpen" in notes and "and 28 more" in notes and "--focal-px" in notes


def test_blinks_without_channels_of_their_own(good: Track, model: FaceModel) -> None:
    names = model.expression_names
    expression = torch.zeros(FRAMES, len(names))
    for side in ("Left", "Right"):
        expression[[30, 31, 100], names.index(f"eyeBlink{side}")] = 2.0
    assert measure(replace(good, expression=expression, expression_names=names), model).blinks == 2


def test_no_frame_at_all_is_still_a_report(good: Track, model: FaceModel, tmp_path: Path) -> None:
    valid, nothing = torch.zeros_like(good.valid), torch.full_like(good.residual_px, math.nan)
    sentence = write_report(tmp_path / "r.png", replace(good, valid=valid, residual_px=nothing), model)
    assert sentence.startswith("Do not trust")


def test_the_picture(good: Track, model: FaceModel, tmp_path: Path) -> None:
    write_report(tmp_path / "good.png", good, model)
    write_report(tmp_path / "bad.png", replace(good, residual_px=good.residual_px * 6), model)
    with Image.open(tmp_path / "good.png") as one, Image.open(tmp_path / "bad.png") as two:
        assert one.width == two.width and one.tobytes() != two.tobytes()
    with pytest.raises(UserError, match="must end in .png"):
        write_report(tmp_path / "r.pdf", good, model)


def test_angles_mean_what_they_say(good: Track) -> None:
    angles = head_angles_deg(good.cam_from_head[:, :3, :3])
    assert float(angles[:, 0].max()) == pytest.approx(math.degrees(0.3), abs=0.5)
