"""The demo clip: motion, picture, truth, and the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from manvatar import demo
from manvatar.errors import UserError
from manvatar.face_models import load
from manvatar.geometry import project, transform
from manvatar.synthesis import make_clip, make_track
from manvatar.synthesis.clip import _lip_apertures_mm, make_scene
from manvatar.synthesis.motion import HELD_OUT, rotation_from_angles
from manvatar.synthesis.shading import encode_srgb
from manvatar.tracking import load_track
from manvatar.types import Track
from manvatar.video import frames, open_clip


def _landmarks_px(track: Track, scheme: str) -> torch.Tensor:
    mean, identity, expression = load("builtin").landmark_bases(scheme)
    points = mean + torch.einsum("i,ikc->kc", track.identity, identity)
    points = points + torch.einsum("fe,ekc->fkc", track.expression, expression)
    return project(track.camera, transform(track.cam_from_head, points))


@pytest.fixture(scope="module")
def track() -> Track:
    return make_track(250, 512, 25.0, 0)


def test_track_is_the_same_for_the_same_seed_and_another_for_another(track: Track) -> None:
    again = make_track(250, 512, 25.0, 0)
    assert torch.equal(track.expression, again.expression) and torch.equal(track.cam_from_head, again.cam_from_head)
    assert not torch.equal(track.identity, make_track(250, 512, 25.0, 1).identity)


def test_head_turns_and_every_expression_is_used(track: Track) -> None:
    rotation = track.cam_from_head[:, :3, :3]
    assert torch.allclose(rotation @ rotation.transpose(1, 2), torch.eye(3).expand_as(rotation), atol=1e-5)
    yaw = torch.rad2deg(torch.atan2(rotation[:, 0, 2], -rotation[:, 2, 2]))
    assert yaw.max() > 10 and yaw.min() < -10 and yaw.abs().max() < 35
    assert track.expression.std(0).min() > 0.2
    assert track.expression[:, track.expression_names.index("eyeBlinkLeft")].max() > 1.9
    assert track.expression.diff(dim=0).abs().max() < 1.5  # band-limited: no jumps, blinks are the fastest


def test_held_out_frames_stay_within_what_was_shown(track: Track) -> None:
    split = round(track.frame_count * (1 - HELD_OUT))
    for series in (track.expression, track.cam_from_head[:, :3].reshape(-1, 12)):
        low, high = series[:split].amin(0), series[:split].amax(0)
        slack = 0.06 * (high - low)  # matrix entries are not monotone in the angles that are limited
        assert (series[split:] >= low - slack).all() and (series[split:] <= high + slack).all()


def test_lips_never_cross(track: Track) -> None:
    gap = track.expression.numpy() @ _lip_apertures_mm().T
    assert gap.min() > -0.05 * gap.max()


def test_positive_yaw_turns_to_the_subjects_left() -> None:
    nose = rotation_from_angles(np.radians([30.0, 0, 0])) @ np.array([0, 0, 1.0])
    assert nose[0] == pytest.approx(0.5) and nose[2] < 0  # right in the picture, towards the camera
    down = rotation_from_angles(np.radians([0, 20.0, 0])) @ np.array([0, 0, 1.0])
    assert down[1] > 0.3  # y points down in the camera frame


def test_picture_shows_the_head_where_the_truth_says(track: Track) -> None:
    """Skin at cheeks and forehead, dark pupils, red lips, at the projected landmarks."""
    scene = make_scene(track, 0)
    index = int(track.expression[:, 22].abs().argmin())  # eyes open
    image = scene.draw(track.expression[index].double().numpy(), track.cam_from_head[index].double().numpy())
    assert image.shape == (512, 512, 3) and image.dtype == np.uint8
    points = _landmarks_px(track, "mediapipe478")[index].numpy()

    def color(landmark: int) -> np.ndarray:
        x, y = points[landmark].astype(int)
        return image[y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3).mean(0)

    for cheek in (50, 280, 151, 9):
        assert color(cheek)[0] > color(cheek)[2] + 25, "skin is redder than blue"
    assert color(0)[1] / color(0)[0] < color(50)[1] / color(50)[0], "lips are redder than cheeks"
    assert color(468).mean() < color(50).mean() - 50 and color(473).mean() < color(280).mean() - 50, "irises are dark"


def test_clip_file_and_truth_agree(tmp_path: Path) -> None:
    done: list[int] = []
    path = tmp_path / "clip.mp4"
    track = make_clip(path, frames=8, size_px=160, seed=3, workers=2, progress=done.append)
    clip = open_clip(path)
    assert clip.frame_count == track.frame_count == 8 and clip.size_px == (160, 160)
    assert clip.frame_rate_hz == pytest.approx(25) and done == list(range(1, 9))
    assert bool(track.valid.all()) and track.face_model == load("builtin").id
    image = next(iter(frames(clip))).image
    drawn = make_scene(track, 3).draw(track.expression[0].double().numpy(), track.cam_from_head[0].double().numpy())
    assert (image.float() - torch.from_numpy(drawn).float()).abs().mean() < 6  # only the codec is between them
    assert path.stat().st_size > 2000
    points = _landmarks_px(track, "ibug68")
    assert (points > 0).all() and (points < 160).all()


def test_real_network_finds_the_face_in_every_frame() -> None:
    from manvatar.landmarks import make_detector

    try:
        detector = make_detector("mediapipe")
    except UserError as error:
        pytest.skip(f"needs the landmark models: {error}")
    track = make_track(250, 512, 25.0, 0)
    scene = make_scene(track, 0)
    truth = _landmarks_px(track, "mediapipe478").numpy()
    for index in range(0, 250, 21):
        image = scene.draw(track.expression[index].double().numpy(), track.cam_from_head[index].double().numpy())
        faces = detector.discover(torch.from_numpy(image))
        assert len(faces) == 1, f"frame {index}"
        apart = np.linalg.norm(truth[index, 33] - truth[index, 263])
        error = np.linalg.norm(faces[0].points_px - truth[index], axis=1)
        assert np.median(error) < 0.05 * apart, f"frame {index}"  # 5 % of the distance of the outer eye corners


def test_command_writes_clip_and_truth(tmp_path: Path) -> None:
    clip, truth = tmp_path / "out" / "clip.mp4", tmp_path / "truth.safetensors"
    assert demo.main(["-o", str(clip), "--truth", str(truth), "--frames", "3", "--size", "96", "--seed", "1"]) == 0
    assert open_clip(clip).frame_count == 3
    track = load_track(truth)
    assert track.camera.size_px == (96, 96) and track.expression.shape == (3, 32)
    assert torch.equal(track.expression, make_track(3, 96, 25.0, 1).expression)


@pytest.mark.parametrize(
    "arguments",
    [["--frames", "0"], ["--size", "10"], ["--rate", "-1"], ["-o", "clip.txt"], ["-o", "/proc/nowhere/clip.mp4"]],
)
def test_bad_requests_are_one_sentence(arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    target = [] if "-o" in arguments else ["-o", str(tmp_path / "clip.mp4")]
    assert demo.main([*arguments, *target, *([] if "--frames" in arguments else ["--frames", "2"])]) == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if "error:" in line]
    assert len(errors) == 1 and "Traceback" not in errors[0]
    assert not list(tmp_path.iterdir())


def test_srgb_encoding() -> None:
    linear = np.array([-1.0, 0, 0.0031308, 0.2140411, 0.5, 1, 7])
    expected = np.array([0, 0, 10, 127.5, 188, 255, 255])
    assert np.abs(encode_srgb(linear).astype(float) - expected).max() <= 1
