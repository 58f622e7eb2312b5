"""The track command as a user types it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from manvatar.landmarks import save_landmarks
from manvatar.track import main
from manvatar.tracking import load_track

CLIP = "address_1280x720.mp4"


def test_missing_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.mp4"), "-o", str(tmp_path / "t.safetensors")]) == 2
    error = capsys.readouterr().err
    assert "none.mp4" in error and "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_no_output_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["video.mp4"]) == 2


def test_impossible_focal_length(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = str(shared_data / "clips" / CLIP)
    out = tmp_path / "t.safetensors"
    assert main([video, "-o", str(out), "--focal-px", "-3", "--end", "0.2"]) == 2
    assert "focal length of -3" in capsys.readouterr().err and not out.exists()


@pytest.fixture(scope="module")
def tracked(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("track")
    video = str(shared_data / "clips" / CLIP)
    arguments = ["-o", str(folder / "t.safetensors"), "--overlay", str(folder / "overlay.mp4"), "--end", "2"]
    assert main([video, *arguments]) == 0
    return folder


def test_real_clip(tracked: Path) -> None:
    track = load_track(tracked / "t.safetensors")
    assert track.frame_count == 50 and track.valid.all()
    assert track.face_model.startswith("builtin") and track.focal_source == "prior"
    assert float(track.residual_px.median()) < 1.5  # the face is 260 px high
    assert track.camera.size_px == (1280, 720)
    assert 0.4 < float(track.cam_from_head[:, 2, 3].median()) < 2.5
    assert float(track.cam_from_head[:, 2, 2].max()) < -0.5  # looks at the camera
    assert float(track.expression.abs().max()) < 6 and float(track.identity.norm()) < 2 * len(track.identity) ** 0.5


def test_overlay_shows_the_mesh(tracked: Path, shared_data: Path) -> None:
    from manvatar.video import frames, open_clip

    overlay, clip = open_clip(tracked / "overlay.mp4"), open_clip(shared_data / "clips" / CLIP, 0.0, 2.0)
    assert overlay.frame_count == 50 and max(overlay.size_px) == 960
    drawn = next(iter(frames(overlay, 10, 11))).image.float()
    plain = next(iter(frames(clip, 10, 11, size_px=overlay.size_px))).image.float()
    track = load_track(tracked / "t.safetensors")
    x, y = (track.camera.focal_px * track.cam_from_head[10, :2, 3] / track.cam_from_head[10, 2, 3]).tolist()
    x, y = int((x + 640) * 0.75), int((y + 360) * 0.75)
    change = (drawn - plain).abs().mean(-1)
    assert float(change[y - 30 : y + 60, x - 40 : x + 40].mean()) > 10
    assert float(change[30:60, 30:200].mean()) < 6


def test_landmarks_from_a_file_give_the_same_track(tracked: Path, shared_data: Path, tmp_path: Path) -> None:
    from manvatar.landmarks import detect_clip
    from manvatar.video import open_clip

    video = shared_data / "clips" / CLIP
    file = tmp_path / "landmarks.npz"
    save_landmarks(detect_clip(open_clip(video, 0.0, 2.0)).landmarks, file)
    out = tmp_path / "t.safetensors"
    assert main([str(video), "-o", str(out), "--landmarks", str(file), "--end", "2"]) == 0
    one, two = load_track(out), load_track(tracked / "t.safetensors")
    torch.testing.assert_close(one.cam_from_head, two.cam_from_head, rtol=1e-3, atol=1e-4)
