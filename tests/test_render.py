"""The render command as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_avatar import fast_avatar, tiny_avatar

from manvatar.avatars import Avatar, turned
from manvatar.driving import parse_background, write_novel
from manvatar.errors import UserError
from manvatar.mark import SYNTHETIC_TEXT
from manvatar.render import main


@pytest.fixture(scope="module")
def avatar_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("avatar") / "a.mav"
    tiny_avatar().save(path, precision="full")
    return path


@pytest.fixture
def smile(tmp_path: Path) -> Path:
    path = tmp_path / "smile.npz"
    np.savez(path, expression=np.linspace(0, 1, 4)[:, None] * [[1.5, 0.5, 0.2]])
    return path


def _frames(path: Path) -> tuple[dict[str, str], float, list[np.ndarray]]:
    with av.open(str(path)) as container:
        rate = float(container.streams.video[0].average_rate)
        return dict(container.metadata), rate, [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]


def test_a_video_with_marks(avatar_path: Path, smile: Path, tmp_path: Path) -> None:
    out = tmp_path / "smile.mp4"
    arguments = [str(avatar_path), "--coefficients", str(smile), "--size", "96"]
    assert main([*arguments, "-o", str(out)]) == 0
    metadata, rate, frames = _frames(out)
    assert "synthetic" in metadata["comment"].lower()
    assert rate == 25 and len(frames) == 4 and frames[0].shape == (96, 96, 3)
    expected = tiny_avatar().rendering([1.5, 0.5, 0.2], size_px=96, background=torch.ones(3)).rgb * 255
    clear = np.s_[:80]  # above the mark
    assert np.abs(frames[3][clear] - expected.numpy()[clear]).mean() < 3
    assert main([*arguments, "-o", str(tmp_path / "bare.mp4"), "--no-visible-mark"]) == 0
    metadata, _, bare = _frames(tmp_path / "bare.mp4")
    assert "synthetic" in metadata["comment"].lower()  # the metadata stay
    corner = np.s_[84:, 40:]
    assert np.ptp(bare[0][corner]) < 50 < 100 < np.ptp(frames[0][corner])


def test_transparent_images(avatar_path: Path, smile: Path, tmp_path: Path) -> None:
    arguments = [str(avatar_path), "--coefficients", str(smile), "--background", "transparent"]
    assert main([*arguments, "-o", str(tmp_path / "frames")]) == 0
    files = sorted((tmp_path / "frames").iterdir())
    assert [file.name for file in files] == [f"frame_{k:05d}.png" for k in range(4)]
    with Image.open(files[3]) as image:
        assert image.mode == "RGBA" and image.info["Comment"] == SYNTHETIC_TEXT
        expected = tiny_avatar().render([1.5, 0.5, 0.2])
        assert np.abs(np.asarray(image).astype(int) - expected.numpy()).max() <= 1


def test_a_single_image_on_a_colour(avatar_path: Path, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps({"jawOpen": 1.0}))
    out = tmp_path / "one.png"
    command = [
        str(avatar_path),
        "--coefficients",
        str(tmp_path / "c.json"),
        "-o",
        str(out),
        "--background",
        "10,200,30",
    ]
    assert main(command) == 0
    with Image.open(out) as image:
        assert image.mode == "RGB" and image.getpixel((0, 0)) == (10, 200, 30)


def test_poses_and_rates(avatar_path: Path, tmp_path: Path) -> None:
    avatar = Avatar.load(avatar_path, "cpu")
    np.savez(tmp_path / "e.npz", expression=np.zeros((11, 3)), frame_rate_hz=10)
    np.savez(tmp_path / "p.npz", yaw_rad=np.linspace(0, 0.5, 21), frame_rate_hz=20)
    files = ["--coefficients", str(tmp_path / "e.npz"), "--poses", str(tmp_path / "p.npz")]
    assert main([str(avatar_path), *files, "--frame-rate", "5", "-o", str(tmp_path / "v.mp4")]) == 0
    _, rate, frames = _frames(tmp_path / "v.mp4")
    assert rate == 5 and len(frames) == 6
    assert main([str(avatar_path), *files, "-o", str(tmp_path / "w.mp4")]) == 0
    _, rate, frames = _frames(tmp_path / "w.mp4")
    assert rate == 10 and len(frames) == 11
    # One expression, many poses.
    (tmp_path / "one.json").write_text(json.dumps({"jawOpen": 0.5}))
    files = ["--coefficients", str(tmp_path / "one.json"), "--poses", str(tmp_path / "p.npz")]
    assert main([str(avatar_path), *files, "-o", str(tmp_path / "images")]) == 0
    assert len(list((tmp_path / "images").iterdir())) == 21
    last = np.asarray(Image.open(tmp_path / "images" / "frame_00020.png"))
    expected = avatar.rendering({"jawOpen": 0.5}, turned(avatar.head_pose, 0.5), background=torch.ones(3)).rgb * 255
    assert np.abs(last - expected.numpy()).max() <= 1


def test_coefficients_beyond_the_range_are_limited_and_named(
    avatar_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.json").write_text(json.dumps({"mouthSmile": 50.0}))
    command = [str(avatar_path), "--coefficients", str(tmp_path / "c.json"), "-o"]
    assert main([*command, str(tmp_path / "a.png")]) == 0
    assert "mouthSmile" in capsys.readouterr().out
    avatar = Avatar.load(avatar_path, "cpu")
    lower, upper = avatar.expression_range
    expected = avatar.rendering({"mouthSmile": float(upper[2] + 0.2 * (upper[2] - lower[2]))}, background=torch.ones(3))
    assert np.abs(np.asarray(Image.open(tmp_path / "a.png")) - expected.rgb.numpy() * 255).max() <= 1
    assert main([*command, str(tmp_path / "b.png"), "--margin", "inf"]) == 0
    assert "mouthSmile" not in capsys.readouterr().out
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["-o", "OUT/x.gif"], "cannot write x.gif"),
        (["-o", "OUT/x.png"], "4 frames do not fit into x.png"),
        (["-o", "OUT/x.mp4", "--background", "transparent"], "cannot be transparent"),
        (["-o", "OUT/x.mp4", "--background", "blue"], "--background cannot be 'blue'"),
        (["-o", "OUT/x.mp4", "--background", "1,2,300"], "--background cannot be"),
        (["-o", "OUT/x.mp4", "--size", "3"], "--size 3 is out of range"),
        (["-o", "OUT/x.mp4", "--frame-rate", "0"], "--frame-rate 0 is out of range"),
        (["-o", "OUT/x.mp4", "--margin", "-1"], "negative"),
        (["-o", "OUT/x.mp4", "--poses", "OUT/none.npz"], "no such file"),
    ],
)
def test_wrong_options(
    avatar_path: Path, smile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str], message: str
) -> None:
    extra = [part.replace("OUT", str(tmp_path / "out")) for part in extra]
    assert main([str(avatar_path), "--coefficients", str(smile), *extra]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("manvatar render: error: ") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_poses_and_coefficients_of_different_lengths(
    avatar_path: Path, smile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "p.npz", yaw_rad=np.zeros(9))
    arguments = ["--coefficients", str(smile), "--poses", str(tmp_path / "p.npz"), "-o", str(tmp_path / "x.mp4")]
    assert main([str(avatar_path), *arguments]) == 2
    assert "4 frames of coefficients but 9 of poses" in capsys.readouterr().err


def test_as_typed(smile: Path, tmp_path: Path) -> None:
    whole, half = tmp_path / "whole.mav", tmp_path / "half.mav"
    fast_avatar().save(whole)
    half.write_bytes(whole.read_bytes()[:5000])
    command = [
        sys.executable,
        "-m",
        "manvatar.render",
        str(half),
        "--coefficients",
        str(smile),
        "-o",
        str(tmp_path / "o"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "cut off" in done.stderr and "Traceback" not in done.stderr
    command[3] = str(whole)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "o").iterdir())) == 4


def test_backgrounds() -> None:
    assert parse_background("transparent") is None
    assert parse_background("0, 255,51").tolist() == pytest.approx([0, 1, 0.2])
    with pytest.raises(UserError):
        parse_background("0,255")


def test_novel_video(tmp_path: Path) -> None:
    write_novel(tmp_path / "novel.mp4", tiny_avatar(), frames_per_expression=4, size_px=96, progress=None)
    metadata, rate, frames = _frames(tmp_path / "novel.mp4")
    assert "synthetic" in metadata["comment"].lower() and rate == 15 and len(frames) == 12
    label = frames[1][:20].astype(int)
    assert (label.max(-1) < 120).sum() > 20  # the name is drawn
