"""Landmarks from files: the three layouts, frames that are missing, and what is wrong with bad ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from landmarks.faces import face_clip

from manvatar.errors import UserError
from manvatar.landmarks import as_ibug68, detect_clip, ibug68_points, load_landmarks, save_landmarks
from manvatar.types import Landmarks


@pytest.fixture
def points() -> np.ndarray:
    return np.random.default_rng(0).uniform(10, 200, (5, 68, 2)).astype(np.float32)


def _write_csv(path: Path, points: np.ndarray, frame: list[int], extra: str = "", values: str = "") -> None:
    header = "frame," + ",".join(f"x{k}, y{k}" for k in range(points.shape[1])) + extra
    rows = [f"{f}," + ",".join(f"{v:.6f}" for v in p.reshape(-1)) + values for f, p in zip(frame, points, strict=True)]
    path.write_text("\n".join([header, *rows]) + "\n")


def _write_json(path: Path, points: np.ndarray, frame: list[int]) -> None:
    entries = [{"frame": f, "points": p.tolist()} for f, p in zip(frame, points, strict=True)]
    path.write_text(json.dumps({"frames": entries}))


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".json"])
def test_three_layouts_read_the_same(tmp_path: Path, points: np.ndarray, suffix: str) -> None:
    path, frame = tmp_path / f"points{suffix}", [0, 1, 3, 4, 6]
    if suffix == ".npz":
        np.savez(path, points_px=points, frame=np.array(frame))
    else:
        (_write_csv if suffix == ".csv" else _write_json)(path, points, frame)
    got = load_landmarks(path, 8)
    assert got.scheme == "ibug68"
    assert got.detected.tolist() == [True, True, False, True, True, False, True, False]
    np.testing.assert_allclose(got.points_px[got.detected].numpy(), points, atol=1e-4)
    assert got.points_px[~got.detected].isnan().all()
    assert (got.confidence[got.detected] == 1).all() and (got.confidence[~got.detected] == 0).all()


def test_save_and_load(tmp_path: Path) -> None:
    detected = torch.tensor([True, False, True])
    positions = torch.rand(3, 478, 2) * 100
    confidence = torch.rand(3, 478) * 0.5 + 0.5
    positions[1], confidence[1] = torch.nan, 0
    landmarks = Landmarks(positions, confidence, detected, "mediapipe478")
    save_landmarks(landmarks, tmp_path / "saved.npz")
    got = load_landmarks(tmp_path / "saved.npz", 3)
    assert got.scheme == "mediapipe478"
    assert torch.equal(got.detected, detected)
    assert torch.equal(got.points_px[detected], positions[detected])
    assert torch.equal(got.confidence, confidence)
    with pytest.raises(UserError, match="ends in .npz"):
        save_landmarks(landmarks, tmp_path / "saved.txt")


def test_zeros_and_holes_are_frames_without_a_face(tmp_path: Path, points: np.ndarray) -> None:
    points[1], points[3, 7] = 0, np.nan
    np.savez(tmp_path / "holes.npz", points_px=points)
    assert load_landmarks(tmp_path / "holes.npz", 5).detected.tolist() == [True, False, True, False, True]


def test_confidence_in_csv(tmp_path: Path, points: np.ndarray) -> None:
    _write_csv(tmp_path / "a.csv", points, list(range(5)), ",confidence", ",0.25")
    assert (load_landmarks(tmp_path / "a.csv", 5).confidence == 0.25).all()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npz", b"not a zip", "cannot read landmarks from"),
        ("a.csv", b"frame,x0,y0\n0,1,2\n", r"shape \(1, 1, 2\); 68 or 478 points"),
        ("a.csv", b"frame,x0,y0\n0,1,what\n", "cannot read landmarks from"),
        ("a.json", b"{}", "cannot read landmarks from"),
        ("a.json", b'{"frames": [', "cannot read landmarks from"),
        ("a.txt", b"", "is not one of .npz, .csv, .json"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_landmarks(tmp_path / name, 5)
    assert "\n" not in str(caught.value)


def test_frames_beyond_the_clip(tmp_path: Path, points: np.ndarray) -> None:
    np.savez(tmp_path / "late.npz", points_px=points, frame=np.arange(100, 105))
    with pytest.raises(UserError, match="none of the clip's 10 frames"):
        load_landmarks(tmp_path / "late.npz", 10)


def test_a_file_as_backend_of_detect_clip(tmp_path: Path, points: np.ndarray) -> None:
    clip = face_clip(tmp_path / "clip.mp4", [[]] * 5)
    np.savez(tmp_path / "points.npz", points_px=points)
    found = detect_clip(clip, tmp_path / "points.npz")
    assert found.landmarks.detected.all() and found.landmarks.scheme == "ibug68"
    assert found.duplicate.tolist() == [False, True, True, True, True]


def test_68_of_478() -> None:
    positions = torch.arange(478 * 2, dtype=torch.float32).reshape(1, 478, 2)
    short = ibug68_points(positions)
    assert short.shape == (1, 68, 2)
    assert short[0, 8, 0] == 2 * 152  # chin
    assert short[0, 36, 0] == 2 * 33 and short[0, 45, 0] == 2 * 263  # outer eye corners, right then left
    assert len({int(v) for v in short[0, :, 0]}) == 68  # no point twice
    landmarks = Landmarks(positions, torch.ones(1, 478), torch.ones(1, dtype=torch.bool), "mediapipe478")
    assert torch.equal(as_ibug68(landmarks).points_px, short)
    assert as_ibug68(as_ibug68(landmarks)).scheme == "ibug68"
