"""The track command as a user types it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from manvatar.driving.tables import read_table
from manvatar.face_models import builtin, load
from manvatar.geometry import project
from manvatar.landmarks import detect_clip, save_landmarks
from manvatar.track import main
from manvatar.tracking import TrackerConfig, load_track, track_clip
from manvatar.tracking.overlay import LONGER_PX
from manvatar.types import EYE_CHANNELS, Track
from manvatar.video import frames, open_clip

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


def test_a_rasteriser_that_is_not_there(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pytorch3d", None)
    arguments = ["-o", str(tmp_path / "t.safetensors"), "--rasteriser", "pytorch3d", "--end", "0.2"]
    assert main([str(shared_data / "clips" / CLIP), *arguments]) == 2
    assert "PyTorch3D is not installed" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def tracked(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("track")
    video = str(shared_data / "clips" / CLIP)
    arguments = ["-o", str(folder / "t.safetensors"), "--overlay", str(folder / "overlay.mp4"), "--end", "2"]
    assert main([video, *arguments]) == 0
    return folder


def test_without_points_on_the_skin_the_landmarks_are_met(shared_data: Path) -> None:
    """Points on plain skin (1.57 px with them) pull the poses from those of the detector, refined or not."""
    clip, config = open_clip(shared_data / "clips" / CLIP, 0.0, 2.0), TrackerConfig(skin_weight=0.0)
    track = track_clip(clip, load("builtin"), config=config, show_progress=False).track
    assert float(track.residual_px.median()) < 1.5


def test_real_clip(tracked: Path) -> None:
    track = load_track(tracked / "t.safetensors")
    assert track.frame_count == 50 and track.valid.all()
    assert track.face_model.startswith("builtin") and track.focal_source == "prior"
    assert float(track.residual_px.median()) < 1.6  # the face is 260 px high
    assert track.camera.size_px == (1280, 720)
    assert track.expression_names[32:] == EYE_CHANNELS and track.face_expression.shape == (50, 32)
    assert 0.4 < float(track.cam_from_head[:, 2, 3].median()) < 2.5
    assert float(track.cam_from_head[:, 2, 2].max()) < -0.5  # looks at the camera
    assert float(track.expression.abs().max()) < 6 and float(track.identity.norm()) < 2 * len(track.identity) ** 0.5


def test_overlay_shows_the_mesh_on_the_head(tracked: Path) -> None:
    overlay = open_clip(tracked / "overlay.mp4")
    assert overlay.frame_count == 50 and 200 < max(overlay.size_px) <= LONGER_PX
    track = load_track(tracked / "t.safetensors")
    picture = next(iter(frames(overlay, 10, 11))).image.float()
    height, width = picture.shape[:2]
    face, border = picture[height // 3 : height // 2, width // 3 : 2 * width // 3], picture[30:, : width // 12]
    # The mesh is drawn in light blue over skin, whose blue is the weakest channel.
    skin = face[..., 0] - face[..., 2]
    without = _frame_part(track, 10)
    assert float(skin.mean()) < float((without[..., 0] - without[..., 2]).mean()) - 15
    assert float(border.mean()) > 5  # the picture itself is still there


def test_the_report_stands_beside_the_overlay(tracked: Path) -> None:
    with Image.open(tracked / "overlay_report.png") as picture:
        assert picture.width > 1000 and picture.height > 800
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 20


def test_the_strip_marks_the_frame(tracked: Path) -> None:
    overlay = open_clip(tracked / "overlay.mp4")
    marks = []
    for frame in frames(overlay):
        strip = frame.image[-30:-4].float()
        marks.append(int(strip.amin(2).mean(0).argmax()))  # the only white in it
    steps = torch.tensor(marks)[1:] - torch.tensor(marks)[:-1]
    assert marks[0] < 20 and marks[-1] > overlay.size_px[0] - 20 and bool((steps >= 0).all())


def test_expressions_as_blendshapes(shared_data: Path, tmp_path: Path) -> None:
    video = str(shared_data / "clips" / CLIP)
    arguments = ["-o", str(tmp_path / "t.safetensors"), "--arkit", str(tmp_path / "take.csv"), "--end", "0.4"]
    assert main([video, *arguments, "--no-eye-channels"]) == 0
    assert load_track(tmp_path / "t.safetensors").expression_names == builtin.load().expression_names
    table = read_table(tmp_path / "take.csv")
    assert len(table["JawOpen"]) == 10 and float(table["JawOpen"].max()) <= 1


def _frame_part(track: Track, index: int) -> torch.Tensor:
    """The clip's own pixels between eyes and nose."""
    clip = open_clip(Path(__file__).resolve().parents[2] / "shared" / "data" / "clips" / CLIP)
    image = next(iter(frames(clip, index, index + 1))).image.float()
    x, y = project(track.camera, track.cam_from_head[index, :3, 3]).long().tolist()
    return image[y : y + 60, x - 40 : x + 40]


def test_landmarks_from_a_file_give_the_same_track(tracked: Path, shared_data: Path, tmp_path: Path) -> None:
    video = shared_data / "clips" / CLIP
    file = tmp_path / "landmarks.npz"
    save_landmarks(detect_clip(open_clip(video, 0.0, 2.0)).landmarks, file)
    out = tmp_path / "t.safetensors"
    assert main([str(video), "-o", str(out), "--landmarks", str(file), "--end", "2"]) == 0
    one, two = load_track(out), load_track(tracked / "t.safetensors")
    torch.testing.assert_close(one.cam_from_head, two.cam_from_head, rtol=1e-3, atol=1e-4)
