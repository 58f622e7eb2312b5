"""Landmarks of whole clips: where the face is known, whatever happens to it."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from landmarks.faces import EYE_DISTANCE_PX, astronaut, face_clip, placed
from video.small_videos import write_video

from manvatar.errors import UserError
from manvatar.landmarks import Detection, MediaPipeDetector, Observation, as_ibug68, detect_clip, make_detector
from manvatar.landmarks import clip as clip_module
from manvatar.landmarks.blazeface import FaceFinder
from manvatar.video import frames, open_clip, writer


def _eyes(detection: Detection) -> np.ndarray:
    """(frames, 2) midpoint of the outer eye corners."""
    return detection.landmarks.points_px[:, [33, 263]].mean(1).numpy()


def test_parity_with_mediapipe() -> None:
    """From the points of one image to those of the next, as mediapipe 0.10.21 (mp.solutions FaceMesh, refined) does.

    The file has its points for the first and the second time that it is shown the same picture.
    """
    numbers = np.loadtxt(Path(__file__).with_name("astronaut_mediapipe.csv"), delimiter=",").astype(np.float32)
    first, second = numbers[:, :2], numbers[:, 2:]
    before = Observation(first, np.ones(478, np.float32), (0.0, 0.0, 1.0, 1.0))
    assert np.median(np.linalg.norm(first - second, axis=-1)) > 0.3
    for as_mediapipe, median_px, p95_px in ((True, 0.03, 0.1), (False, 0.2, 0.3)):
        now = MediaPipeDetector(as_mediapipe=as_mediapipe).follow(torch.from_numpy(astronaut()), before)
        error = np.linalg.norm(now.points_px - second, axis=-1)
        assert np.median(error) < median_px
        assert np.percentile(error, 95) < p95_px


def test_irises_lie_between_the_lids() -> None:
    (face,) = MediaPipeDetector().discover(torch.from_numpy(astronaut()))
    points = face.points_px
    assert np.isfinite(points).all()
    for iris, corners, lids in ((468, (33, 133), (159, 145)), (473, (263, 362), (386, 374))):
        low, high = sorted(points[list(corners), 0])
        assert low < points[iris, 0] < high
        assert points[lids[0], 1] - 1 < points[iris, 1] < points[lids[1], 1] + 1
        rim = np.linalg.norm(points[iris + 1 : iris + 5] - points[iris], axis=-1)
        assert 2 < rim.min() and rim.max() < 8  # pixels; the eye is 20 wide
    assert face.confidence[:468].min() > 0.99


@pytest.mark.parametrize("turns", [1, 3])
def test_a_tilted_head_gives_turned_points(turns: int) -> None:
    """The region turns with the eyes, so a rotated image has the same points, rotated."""
    detector = MediaPipeDetector()
    (upright,) = detector.discover(torch.from_numpy(astronaut()))
    for _ in range(4):
        upright = detector.follow(torch.from_numpy(astronaut()), upright)
    turned_image = torch.from_numpy(np.rot90(astronaut(), turns).copy())
    x, y = upright.points_px.T
    expected = np.stack([y, 512 - x] if turns == 1 else [512 - y, x], -1)
    start = type(upright)(expected.astype(np.float32), upright.confidence, upright.box)
    turned = detector.follow(turned_image, start)
    assert np.median(np.linalg.norm(turned.points_px[:468] - expected[:468], axis=-1)) < 0.2


def test_points_scale_with_the_clip(tmp_path: Path) -> None:
    path = [(0.9, (200.0 + 3 * i, 150.0)) for i in range(6)]
    small = detect_clip(face_clip(tmp_path / "small.mp4", [[one] for one in path]))
    large_path = [[(3.6, (x * 4, y * 4))] for _, (x, y) in path]
    large = detect_clip(face_clip(tmp_path / "large.mp4", large_path, (1920, 1440)))
    assert small.landmarks.detected.all() and large.landmarks.detected.all()
    np.testing.assert_allclose(_eyes(small), [center for _, center in path], atol=1.5)
    np.testing.assert_allclose(_eyes(large), [center for ((_, center),) in large_path], atol=6)
    assert small.notes == large.notes == ()


def test_a_face_too_small_at_first_is_found_backward(tmp_path: Path) -> None:
    scales = np.geomspace(0.16, 0.8, 24)
    clip = face_clip(tmp_path / "growing.mp4", [[(s, (240.0, 170.0))] for s in scales])
    finder = FaceFinder()
    first = next(frames(clip)).image
    assert not finder.find(first)  # 10 pixels between the eyes: forward following cannot begin here
    found = detect_clip(clip).landmarks
    assert found.detected.all()
    distance = (found.points_px[:, 33] - found.points_px[:, 263]).norm(dim=-1).numpy()
    np.testing.assert_allclose(distance, EYE_DISTANCE_PX * scales, rtol=0.12)


def test_a_face_in_part_of_the_clip(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    here = [[(0.9, (240.0, 170.0))]]
    with caplog.at_level(logging.WARNING):
        found = detect_clip(face_clip(tmp_path / "gap.mp4", here * 6 + [[]] * 5 + here * 6 + [[]] * 3))
    landmarks = found.landmarks
    assert landmarks.detected.tolist() == [True] * 6 + [False] * 5 + [True] * 6 + [False] * 3
    assert landmarks.points_px[~landmarks.detected].isnan().all()
    assert not landmarks.points_px[landmarks.detected].isnan().any()
    assert (landmarks.confidence[~landmarks.detected] == 0).all()
    assert any("12 of 20 frames" in note for note in found.notes)
    assert "12 of 20 frames" in caplog.text


def test_of_two_people_the_larger_steady_one_is_followed(tmp_path: Path) -> None:
    """A small one all the time, a larger one most of the time, and the largest one only for a moment."""
    faces = []
    for i in range(24):
        here = [(0.45, (90.0, 240.0))]
        if i < 20:
            here.append((0.8, (330.0 + i, 150.0)))
        faces.append(here)
    found = detect_clip(face_clip(tmp_path / "two.mp4", faces))
    assert found.landmarks.detected.tolist() == [True] * 20 + [False] * 4
    np.testing.assert_allclose(_eyes(found)[:20], [[330.0 + i, 150.0] for i in range(20)], atol=1.5)
    assert any("2 faces" in note and "largest steady one" in note for note in found.notes)


def test_no_face_is_refused(tmp_path: Path) -> None:
    clip = face_clip(tmp_path / "none.mp4", [[]] * 4)
    with pytest.raises(UserError, match="no face was found in any frame of .*none.mp4"):
        detect_clip(clip)


def test_five_frames_and_odd_sizes(tmp_path: Path) -> None:
    clip = face_clip(tmp_path / "five.mp4", [[(0.7, (150.0, 110.0))]] * 5, (301, 227))
    found = detect_clip(clip)
    assert found.landmarks.detected.all() and len(found.duplicate) == 5


def test_progress_and_repeats(tmp_path: Path) -> None:
    faces = [[(0.8, (200.0 + 6 * (i // 2), 150.0))] for i in range(12)]
    calls = []
    found = detect_clip(
        face_clip(tmp_path / "twice.mp4", faces), progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(i + 1, 12) for i in range(12)]
    assert found.duplicate.tolist() == [i % 2 == 1 for i in range(12)]


def test_a_clip_looked_at_in_two_parts_is_as_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = []
    for i in range(70):
        canvas = np.full((240, 320, 3), (120, 130, 140), np.uint8)
        if not 20 <= i < 24:
            placed(canvas, 0.8, (130 + (i - (i % 7 == 6)), 110 + 10 * np.sin(i / 6)))
        images.append(canvas)
    clip = open_clip(write_video(tmp_path / "v.mp4", images, gop=10))
    assert clip_module._cut_in_two(clip, MediaPipeDetector()) == [(0, 70)]
    whole = detect_clip(clip)
    monkeypatch.setattr(clip_module, "_SHORT", 60)
    seen: list[int] = []
    (first, cut), (again, stop) = clip_module._cut_in_two(clip, MediaPipeDetector())
    assert (first, stop) == (0, 70) and 37 <= cut == again < 65
    parts = detect_clip(clip, progress=lambda done, count: seen.append(done))
    assert torch.equal(parts.landmarks.detected, whole.landmarks.detected) and not whole.landmarks.detected[20:24].any()
    assert torch.equal(parts.duplicate, whole.duplicate) and parts.notes == whole.notes
    apart = (parts.landmarks.points_px - whole.landmarks.points_px).norm(dim=-1)[whole.landmarks.detected]
    assert float(apart.max()) < 0.05
    assert seen == sorted(seen) and seen[-1] == 70


def test_a_clip_without_a_key_frame_near_its_middle_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip_module, "_SHORT", 10)
    clip = open_clip(write_video(tmp_path / "v.mp4", [np.zeros((64, 64, 3), np.uint8)] * 30, gop=100))
    assert clip_module._cut_in_two(clip, MediaPipeDetector()) == [(0, 30)]


def test_a_damaged_file_gives_the_frames_it_has(tmp_path: Path) -> None:
    """Frames that stop decoding in the middle are frames without a face, and are named."""
    path = tmp_path / "whole.mp4"
    face_clip(path, [[(0.8, (200.0 + 5 * i, 150.0))] for i in range(20)])
    content = bytearray(path.read_bytes())
    half = len(content) * 9 // 10  # the first frame is the larger part of the file
    content[half:] = bytes(len(content) - half)
    path.write_bytes(content)
    found = detect_clip(open_clip(path))
    detected = found.landmarks.detected
    assert len(detected) == len(found.duplicate) == 20
    count = int(detected.sum())
    assert 3 < count < 20 and detected[:count].all()
    assert any(f"damaged: {count} of 20 frames decoded" in note for note in found.notes)


def test_unknown_backend_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown landmark backend 'dlib'"):
        make_detector("dlib")
    with writer(tmp_path / "a.mp4", 25.0, (64, 64), synthetic=True) as video:
        video.write(np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(UserError, match="no such landmark file: points.npz.*or name a backend"):
        detect_clip(open_clip(tmp_path / "a.mp4"), "points.npz")


def test_a_blink_closes_the_lids(shared_data: Path) -> None:
    """The plain mesh network only goes down to 0.18 of the eye's width where the eye is shut."""
    found = detect_clip(open_clip(shared_data / "clips" / "address_1280x720.mp4", start_s=0.0, end_s=1.0))
    points = found.landmarks.points_px
    opening = (points[:, 159] - points[:, 145]).norm(dim=-1) / (points[:, 33] - points[:, 133]).norm(dim=-1)
    assert opening.min() < 0.08 and opening.median() > 0.2
    shut = opening.argmin()
    assert found.landmarks.confidence[shut, 468] < 0.2 < 0.9 < found.landmarks.confidence[opening.argmax(), 468]


@pytest.mark.parametrize("name", ["address_1280x720", "beard_1080x1920", "wavy_1080x1920"])
def test_real_clips(shared_data: Path, name: str) -> None:
    clip = open_clip(shared_data / "clips" / f"{name}.mp4", start_s=4.0, end_s=5.0)
    found = detect_clip(clip)
    assert found.landmarks.detected.all() and found.notes == ()
    assert torch.isfinite(found.landmarks.points_px).all()
    points = as_ibug68(found.landmarks).points_px
    eye_distance = (points[:, 36] - points[:, 45]).norm(dim=-1)
    assert 60 < eye_distance.min() and eye_distance.max() < 250
    # The face does not jump by more than a seventh of the eye distance between two frames.
    assert (points.diff(dim=0).norm(dim=-1).median(-1).values < eye_distance[1:] / 7).all()
