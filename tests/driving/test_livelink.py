"""ARKit blendshapes as the Live Link Face app writes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_avatar import NAMES, tiny_avatar

from manvatar.avatars import Avatar
from manvatar.driving import read_coefficients
from manvatar.driving.livelink import arkit_weights, timecode_s, write_recording
from manvatar.errors import UserError
from manvatar.face_models import builtin
from manvatar.face_models.arkit import ARKIT_NAMES, builtin_table
from manvatar.render import main
from manvatar.types import EYE_CHANNELS, Camera, Track

MODEL_NAMES = ("jawOpen", "eyeBlinkLeft", "mouthSmileRight")
TABLE = builtin_table(MODEL_NAMES)


def _recording(path: Path, frames: int = 90, rate: int = 30, without: tuple[int, ...] = ()) -> Path:
    """A file of the app: text, a count, 52 names with capitals, angles; the mouth opens, the left eye stays shut."""
    names = [name[0].upper() + name[1:] for name in ARKIT_NAMES]
    angles = [f"{part}{way}" for part in ("Head", "LeftEye", "RightEye") for way in ("Yaw", "Pitch", "Roll")]
    lines = [",".join(["Timecode", "BlendShapeCount", *names, *angles])]
    for frame in range(frames):
        if frame in without:
            continue
        weights = np.zeros(52)
        weights[ARKIT_NAMES.index("jawOpen")] = frame / frames
        weights[ARKIT_NAMES.index("eyeBlinkLeft")] = 1
        stamp = f"10:59:{58 + frame // rate:02d}:{frame % rate:02d}.250"
        lines.append(",".join([stamp, "61", *(f"{weight:.6f}" for weight in weights), *["0.1"] * 9]))
    path.write_text("\n".join(lines))
    return path


def test_a_recording_of_the_app(tmp_path: Path) -> None:
    found = read_coefficients(_recording(tmp_path / "take.csv"), MODEL_NAMES, TABLE)
    assert found.frame_rate_hz == pytest.approx(30)
    assert found.expression.shape == (90, 3)
    assert torch.allclose(found.expression[:, 1], torch.tensor(2.0))
    rising = torch.arange(90) / 90 * TABLE[ARKIT_NAMES.index("jawOpen"), 0]
    assert torch.allclose(found.expression[:, 0], rising, atol=1e-4)
    assert bool((found.expression[:, 2] == 0).all())


def test_frames_the_phone_has_dropped_are_filled_in(tmp_path: Path) -> None:
    whole = read_coefficients(_recording(tmp_path / "a.csv"), MODEL_NAMES, TABLE)
    gaps = read_coefficients(_recording(tmp_path / "b.csv", without=(7, 8, 40)), MODEL_NAMES, TABLE)
    assert gaps.frame_rate_hz == pytest.approx(30 * 86 / 89, rel=1e-3)
    assert float(gaps.expression[-1, 0]) == pytest.approx(float(whole.expression[-1, 0]), abs=0.05)
    assert bool((gaps.expression[1:, 0] > gaps.expression[:-1, 0]).all())


def test_what_counts_as_arkit() -> None:
    one = np.ones(2)
    assert arkit_weights({"jawOpen": one}, MODEL_NAMES) is None  # the avatar's own coefficient
    assert arkit_weights({"JawOpen": one}, MODEL_NAMES) is not None
    assert arkit_weights({"jawOpen": one, "jawRight": one}, MODEL_NAMES) is not None
    assert arkit_weights({"jawOpen": one, "ict_pca_00": one}, ("ict_pca_00",)) is None
    assert arkit_weights({"expression": one}, MODEL_NAMES) is None
    other = arkit_weights({"jawOpen": one, "_neutral": one}, ("ict_pca_00",))  # as MediaPipe names them
    assert other is not None and float(other.sum()) == 2


def test_timecodes() -> None:
    stamps = np.array(["00:00:01:58", "00:00:02:00", "01:00:00:30.5"])
    assert timecode_s({"Timecode": stamps}).tolist() == pytest.approx([1 + 58 / 60, 2, 3600 + 30.5 / 60])
    assert timecode_s({"timecode": np.array(["00:00:01:10", "00:00:01:20"])}).tolist() == pytest.approx(
        [1 + 10 / 60, 1 + 20 / 60]
    )
    with pytest.raises(UserError, match="'soon' is no timecode"):
        timecode_s({"Timecode": np.array(["soon"])})


def test_an_avatar_that_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not say what they are in its coefficients"):
        read_coefficients(_recording(tmp_path / "take.csv"), ("ict_pca_00",))


def test_avatars_keep_their_table(tmp_path: Path) -> None:
    avatar = tiny_avatar()
    assert torch.equal(avatar.arkit, builtin_table(NAMES))  # of the builtin head, though its file does not say
    table = torch.rand(52, 3)
    rows = tuple(tuple(row) for row in table.tolist())
    other = Avatar(replace(avatar.header, face_model="other", arkit=rows), avatar.field, avatar.occupancy)
    other.save(tmp_path / "a.mav")
    assert torch.allclose(Avatar.load(tmp_path / "a.mav").arkit, table)
    Avatar(replace(avatar.header, face_model="other"), avatar.field, avatar.occupancy).save(tmp_path / "b.mav")
    assert Avatar.load(tmp_path / "b.mav").arkit is None
    wrong = Avatar(replace(avatar.header, arkit=rows[:51]), avatar.field, avatar.occupancy)
    wrong.save(tmp_path / "c.mav")
    with pytest.raises(UserError, match="does not fit"):
        Avatar.load(tmp_path / "c.mav")


def test_the_render_command_takes_a_recording(tmp_path: Path) -> None:
    tiny_avatar().save(tmp_path / "a.mav")
    take = _recording(tmp_path / "take.csv", frames=3)
    arguments = [str(tmp_path / "a.mav"), "--coefficients", str(take), "--size", "32", "--background", "transparent"]
    assert main([*arguments, "-o", str(tmp_path / "frames")]) == 0
    assert len(list((tmp_path / "frames").glob("*.png"))) == 3


def test_a_track_goes_there_and_comes_back(tmp_path: Path) -> None:
    model = builtin.load()
    names = (*model.expression_names, *EYE_CHANNELS)
    frames = 40
    phase = torch.linspace(0, 6, frames)
    expression = torch.zeros(frames, len(names))
    expression[:, names.index("jawOpen")] = 1 + phase.sin()
    expression[:, names.index("mouthSmileLeft")] = 1 + phase.cos()
    expression[:, names.index("jawLeft")] = phase.cos()
    expression[:, names.index("eyelidRight")] = 2 * (phase > 3)
    expression[:, names.index("gazeYaw")] = 2 * phase.sin()
    track = Track(
        camera=Camera(torch.tensor([900.0, 900.0]), torch.tensor([320.0, 240.0]), (640, 480)),
        cam_from_head=torch.eye(4).expand(frames, 4, 4),
        identity=torch.zeros(len(model.identity_basis_m)),
        expression=expression,
        landmark_offsets_m=torch.zeros(478, 3),
        residual_px=torch.zeros(frames),
        valid=torch.ones(frames, dtype=torch.bool),
        frame_rate_hz=25.0,
        landmark_scheme="mediapipe478",
        face_model=model.id,
        expression_names=names,
    )
    assert write_recording(tmp_path / "take.csv", track, model) < 0.05
    back = read_coefficients(tmp_path / "take.csv", names, builtin_table(names))
    assert back.frame_rate_hz == pytest.approx(25)
    assert (back.expression - expression)[:, [names.index("jawOpen"), names.index("jawLeft")]].abs().max() < 0.1
    assert (back.expression - expression)[:, -4:].abs().max() < 0.01
    with pytest.raises(UserError, match="load that face model"):
        write_recording(tmp_path / "other.csv", replace(track, face_model="other"), model)
