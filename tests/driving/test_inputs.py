"""Coefficients and poses from files in every layout, and what is said about wrong ones."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_avatar import NAMES, front_pose

from manvatar.avatars import turned
from manvatar.driving import limited, read_coefficients, read_poses
from manvatar.errors import UserError
from manvatar.geometry import rigid, rotation_from_vector
from manvatar.tracking.files import save_track
from manvatar.types import Camera, Track

VALUES = np.array([[0.5, -1.0, 2.0], [0.25, 0.0, -0.125], [1.0, 1.0, 1.0], [0.0, 3.0, 0.5]])


def _write(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    if name.endswith(".npz"):
        np.savez(path, **content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


ORDER = ["mouthSmile", "jawOpen", "eyeBlinkLeft"]
COLUMNS = [NAMES.index(name) for name in ORDER]
LISTS = VALUES.tolist()
LAYOUTS = {
    "matrix.npz": {"expression": VALUES},
    "names.npz": {"expression": VALUES[:, COLUMNS], "names": np.array(ORDER)},
    "columns.npz": {name: VALUES[:, k] for k, name in enumerate(NAMES)},
    "matrix.json": {"expression": LISTS},
    "names.json": {"expression": VALUES[:, COLUMNS].tolist(), "names": ORDER},
    "list.json": LISTS,
    "objects.json": [dict(zip(NAMES, row, strict=True)) for row in LISTS],
    "columns.json": {name: VALUES[:, k].tolist() for k, name in enumerate(NAMES)},
    "plain.csv": "\n".join(",".join(map(str, row)) for row in LISTS) + "\n\n",
    "header.csv": "\ufeff" + "\r\n".join([", ".join(ORDER), *(",".join(map(str, r)) for r in VALUES[:, COLUMNS])]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_of_coefficients(tmp_path: Path, name: str) -> None:
    found = read_coefficients(_write(tmp_path, name, LAYOUTS[name]), NAMES)
    assert found.frame_rate_hz is None
    assert torch.equal(found.expression, torch.from_numpy(VALUES).float())


def test_what_is_not_named_is_zero(tmp_path: Path) -> None:
    found = read_coefficients(_write(tmp_path, "a.json", {"mouthSmile": [1, 2]}), NAMES)
    assert found.expression.tolist() == [[0, 0, 1], [0, 0, 2]]
    gaps = read_coefficients(_write(tmp_path, "b.json", [{"jawOpen": 1}, {"mouthSmile": 2}]), NAMES)
    assert gaps.expression.tolist() == [[1, 0, 0], [0, 0, 2]]


def test_one_frame(tmp_path: Path) -> None:
    assert read_coefficients(_write(tmp_path, "a.json", {"jawOpen": 2}), NAMES).expression.tolist() == [[2, 0, 0]]
    single = read_coefficients(_write(tmp_path, "b.npz", {"expression": VALUES[0]}), NAMES)
    assert single.expression.tolist() == [VALUES[0].tolist()]


def test_stated_rates_and_times(tmp_path: Path) -> None:
    stated = read_coefficients(_write(tmp_path, "a.npz", {"expression": VALUES, "frame_rate_hz": 30}), NAMES)
    assert stated.frame_rate_hz == 30 and len(stated.expression) == 4
    # Uneven times, made even: the values in between are linear.
    table = {"jawOpen": [0.0, 1.0, 3.0], "time_s": [1.0, 1.1, 1.3]}
    timed = read_coefficients(_write(tmp_path, "b.json", table), NAMES)
    assert timed.frame_rate_hz == pytest.approx(2 / 0.3)
    assert timed.expression[:, 0].tolist() == pytest.approx([0.0, 1.5, 3.0])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", {"jawOpne": [1]}, "names jawOpne, which this avatar does not have; it has jawOpen, eyeBlinkLeft"),
        ("a.json", {"expression": [[1, 2]]}, r"shape \(1, 2\) but \(1, 3\) is needed"),
        ("a.npz", {"expression": VALUES, "names": np.array(["jawOpen"])}, r"\(4, 1\) is needed"),
        ("a.npz", {"expression": np.array([[0, 1, np.nan]])}, "not a finite number"),
        ("a.npz", {"expression": np.zeros((0, 3))}, "no frames"),
        ("a.json", {"jawOpen": [1, 2], "mouthSmile": [1]}, "equal length"),
        ("a.json", {"jawOpen": "wide"}, "jawOpen in .* is text"),
        ("a.json", {"yaw_rad": [1, 2]}, "no expression coefficients"),
        ("a.json", "{", "cannot be read"),
        ("a.json", "3", "neither an object nor a list"),
        ("a.json", [], "is empty"),
        ("a.json", {"jawOpen": [1, 2], "frame_rate_hz": 0}, "one positive number"),
        ("a.json", {"jawOpen": [1, 2], "time_s": [1, 1]}, "2 rising numbers"),
        ("a.csv", "jawOpen,mouthSmile\n1\n", "line 2 has 1 values instead of 2"),
        ("a.csv", "jawOpen,mouthSmile\n1,x\n", "line 2 has 'x' where a number"),
        ("a.csv", "jawOpen,jawOpen\n1,2\n", "same name"),
        ("a.csv", "jawOpen\n", "no numbers"),
        ("a.csv", "", "is empty"),
        ("a.txt", "1 2 3", "none of .npz, .csv, .json"),
    ],
)
def test_wrong_coefficients(tmp_path: Path, name: str, content: object, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_coefficients(_write(tmp_path, name, content), NAMES)
    assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_coefficients(tmp_path / "a.npz", NAMES)
    (tmp_path / "b.npz").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be read"):
        read_coefficients(tmp_path / "b.npz", NAMES)
    np.savez(tmp_path / "c.npz", expression=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match="cannot be read"):  # pickles are not opened
        read_coefficients(tmp_path / "c.npz", NAMES)
    np.savez(tmp_path / "d.npz", expression=VALUES)
    (tmp_path / "d.npz").write_bytes((tmp_path / "d.npz").read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be read"):
        read_coefficients(tmp_path / "d.npz", NAMES)


def _track(frames: int = 5) -> Track:
    vectors = torch.linspace(-0.3, 0.3, frames)[:, None] * torch.tensor([[0.0, 1.0, 0.0]])
    rotation = front_pose()[:3, :3] @ rotation_from_vector(vectors)
    translation_m = torch.stack([torch.linspace(0.1, 0.3, frames), torch.zeros(frames), torch.ones(frames)], -1)
    return Track(
        camera=Camera(torch.tensor([900.0, 900.0]), torch.tensor([320.0, 240.0]), (640, 480)),
        cam_from_head=rigid(rotation, translation_m),
        identity=torch.zeros(4),
        expression=torch.arange(frames * 3).reshape(frames, 3).float(),
        landmark_offsets_m=torch.zeros(68, 3),
        residual_px=torch.zeros(frames),
        valid=torch.ones(frames, dtype=torch.bool),
        frame_rate_hz=24.0,
        landmark_scheme="ibug68",
        face_model="builtin-1",
        expression_names=("mouthSmile", "jawOpen", "eyeBlinkLeft"),
    )


def test_a_track_drives(tmp_path: Path) -> None:
    track = _track()
    save_track(track, tmp_path / "t.safetensors")
    found = read_coefficients(tmp_path / "t.safetensors", NAMES)
    assert found.frame_rate_hz == 24
    assert torch.equal(found.expression, track.expression[:, [1, 2, 0]])
    poses = read_poses(tmp_path / "t.safetensors", front_pose())
    torch.testing.assert_close(poses.cam_from_head[:, :3, :3], track.cam_from_head[:, :3, :3])
    # It moves about where the default pose is.
    torch.testing.assert_close(poses.cam_from_head[:, 0, 3], torch.linspace(-0.1, 0.1, 5))
    assert poses.cam_from_head[2, :3, 3].tolist() == pytest.approx([0, 0, 0.5], abs=1e-6)


def test_poses_in_every_layout(tmp_path: Path) -> None:
    pose = front_pose()
    yaw = torch.tensor([0.1, -0.2, 0.3])
    expected = turned(pose.expand(3, 4, 4), yaw)
    turns = read_poses(_write(tmp_path, "a.json", {"yaw_rad": yaw.tolist(), "jawOpen": [1, 2, 3]}), pose)
    torch.testing.assert_close(turns.cam_from_head, expected)
    matrices = read_poses(_write(tmp_path, "b.npz", {"cam_from_head": expected.numpy(), "frame_rate_hz": 12}), pose)
    torch.testing.assert_close(matrices.cam_from_head, expected)
    assert matrices.frame_rate_hz == 12
    one = read_poses(_write(tmp_path, "c.npz", {"cam_from_head": pose.numpy()}), pose)
    assert torch.equal(one.cam_from_head, pose[None])
    csv = "rotation_vector_x,rotation_vector_y,rotation_vector_z\n3.0,0,0\n0,3.1,0.1\n"
    vectors = read_poses(_write(tmp_path, "d.csv", csv), pose)
    wanted = rotation_from_vector(torch.tensor([[3.0, 0, 0], [0, 3.1, 0.1]]))
    torch.testing.assert_close(vectors.cam_from_head[:, :3, :3], wanted)
    assert vectors.cam_from_head[:, 2, 3].tolist() == [0.5, 0.5]
    both = {"rotation_vector": [[0.0, 0, 0]], "translation_m": [[0.1, 0.2, 0.3]]}
    moved = read_poses(_write(tmp_path, "e.json", both), pose)
    assert moved.cam_from_head[0, :3, 3].tolist() == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"jawOpen": [1]}, "no head poses; give one of cam_from_head"),
        ({"cam_from_head": [[1, 0], [0, 1]]}, r"\(frames, 4, 4\) is needed"),
        ({"cam_from_head": (np.eye(4) * 2).tolist()}, "not a rotation and a translation in frame 0"),
        ({"cam_from_head": [np.eye(4).tolist(), np.diag([1.0, 1, -1, 1]).tolist()]}, "in frame 1"),
        ({"rotation_vector": [[1, 2]]}, r"\(frames, 3\) is needed"),
        ({"rotation_vector": [[0, 0, 0]], "translation_m": [[0, 0, 1], [0, 0, 1]]}, "different lengths"),
        ({"yaw_rad": [0.1], "roll_rad": [0.1, 0.2]}, "different lengths"),
        ({"yaw_rad": [[0.1]]}, "one number for each frame"),
    ],
)
def test_wrong_poses(tmp_path: Path, content: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_poses(_write(tmp_path, "a.json", content), front_pose())


def test_limited_changes_nothing_inside_and_never_leaves_the_margin() -> None:
    lower, upper = torch.tensor([-1.0, 0.0]), torch.tensor([3.0, 0.5])
    inside = torch.rand(100, 2) * (upper - lower) + lower
    torch.testing.assert_close(limited(inside, lower, upper), inside)
    far = torch.tensor([[100.0, -100.0]])
    torch.testing.assert_close(limited(far, lower, upper, 0.25), torch.tensor([[4.0, -0.125]]))
    assert torch.equal(limited(far, lower, upper, 0.0).clamp(lower, upper), torch.tensor([[3.0, 0.0]]))
    assert torch.equal(limited(far, lower, upper, math.inf), far)
    line = torch.linspace(-9, 9, 1000)[:, None].expand(-1, 2).double()
    bent = limited(line, lower.double(), upper.double())
    assert (bent.diff(dim=0) >= 0).all()
    # Smooth: the slope is 1 where the range ends.
    edge = torch.tensor([[3.0 + 1e-4, 0.5 + 1e-4]], dtype=torch.float64)
    torch.testing.assert_close(limited(edge, lower.double(), upper.double()), edge, atol=1e-9, rtol=0)
    with pytest.raises(UserError, match="negative"):
        limited(far, lower, upper, -0.1)
