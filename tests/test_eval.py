"""The eval command: which frames it scores, and what it refuses.

Cutting out the head needs the matting network; here the dataset it would make is known, so that the scores are too.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_avatar import NAMES, front_pose, rendered, tiny_avatar, tiny_dataset

import manvatar.eval
from manvatar.avatars import Avatar, provenance
from manvatar.errors import UserError
from manvatar.eval import _for_avatar, main
from manvatar.tracking import load_track, save_track
from manvatar.types import Camera, Clip, Dataset, FaceModel, Track
from manvatar.video import writer

FRAMES = 12


def _video(path: Path, level: int) -> Path:
    with writer(path, 25.0, (64, 48), synthetic=True) as video:
        for _ in range(FRAMES):
            video.write(torch.full((48, 64, 3), level, dtype=torch.uint8))
    return path


def _track(path: Path, **changes: object) -> Path:
    track = Track(
        camera=Camera(torch.tensor([90.0, 90.0]), torch.tensor([32.0, 24.0]), (64, 48)),
        cam_from_head=front_pose().expand(FRAMES, 4, 4).clone(),
        identity=torch.zeros(4),
        expression=torch.zeros(FRAMES, 3),
        landmark_offsets_m=torch.zeros(68, 3),
        residual_px=torch.zeros(FRAMES),
        valid=torch.ones(FRAMES, dtype=torch.bool),
        frame_rate_hz=25.0,
        landmark_scheme="ibug68",
        face_model="builtin-1",
        expression_names=NAMES,
    )
    save_track(dataclasses.replace(track, **changes), path)
    return path


def _face_model(name: str) -> FaceModel:
    triangle = torch.eye(3)
    return FaceModel(
        f"{name}-1", triangle, torch.zeros(4, 3, 3), torch.zeros(3, 3, 3), NAMES, torch.arange(3)[None], ()
    )


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """An avatar, its own video, another one, a track of either, and the dataset that is cut out of them."""
    own, other = _video(tmp_path / "own.mp4", 90), _video(tmp_path / "other.mp4", 120)
    trained = tiny_dataset(frames=FRAMES, held_out=4)
    trained = dataclasses.replace(trained, clip_frame=torch.arange(FRAMES))
    avatar = tiny_avatar(trained)
    avatar.header.provenance.update(provenance(own))
    avatar.save(tmp_path / "a.mav", "full")
    everything = dataclasses.replace(trained, train=torch.arange(FRAMES), held_out=torch.zeros(0, dtype=torch.int64))
    rendered(avatar, everything)

    def build_dataset(*_: object, **__: object) -> Dataset:
        return everything

    monkeypatch.setattr(manvatar.eval, "build_dataset", build_dataset)
    monkeypatch.setattr(manvatar.eval, "load", _face_model)
    track = _track(tmp_path / "t.safetensors")
    return SimpleNamespace(avatar=tmp_path / "a.mav", own=own, other=other, track=track, out=tmp_path / "out")


def _run(made: SimpleNamespace, video: Path, *extra: str) -> int:
    return main([str(made.avatar), str(video), "-o", str(made.out), "--track", str(made.track), *extra])


def _table(made: SimpleNamespace) -> dict:
    return json.loads((made.out / "scores.json").read_text())


def test_on_its_own_video_only_what_it_did_not_see(made: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(made, made.own) == 0
    table = _table(made)
    assert table["frames"] == 4 and table["frame"]["psnr_db"] > 50
    assert 0 < table["nearest_frame"]["frame"]["psnr_db"] < table["frame"]["psnr_db"]
    assert table["preset"] == "tiny" and table["seed"] == 0 and table["seconds"]["train"] is None
    assert "not trained on" in capsys.readouterr().out
    assert sorted(path.name for path in made.out.iterdir()) == ["contact.png", "preview.mp4", "scores.json"]


def test_all_frames_of_another_video(made: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(made, made.other) == 0
    assert _table(made)["frames"] == FRAMES and _table(made)["nearest_frame"] is None
    assert "(all frames)" in capsys.readouterr().out
    assert _run(made, made.own, "--frames", "all") == 0
    assert _table(made)["frames"] == FRAMES


def test_frames_are_counted_in_the_file(made: SimpleNamespace) -> None:
    """The avatar held out frames 8 to 11 of the file: of a clip that starts at frame 2 these are 6 to 9."""
    avatar = Avatar.load(made.avatar, "cpu")
    found = manvatar.eval._held_out(avatar, Clip(Path("v.mp4"), 25.0, (64, 48), 10, first_frame=2))
    assert found.tolist() == [6, 7, 8, 9]


@pytest.mark.parametrize(
    ("video", "extra", "message"),
    [
        ("other", ["--frames", "held-out"], "was not made from"),
        ("own", ["--face-model", "ict"], "was made with the face model builtin-1, not ict-1"),
        ("own", ["--end", "0.2"], "tracks 12 frames"),
        ("own", ["--lpips-alex", "none.pth"], "lpips package|no such file"),
        ("missing", [], "no such file"),
    ],
)
def test_what_cannot_be_scored(
    made: SimpleNamespace, capsys: pytest.CaptureFixture[str], video: str, extra: list[str], message: str
) -> None:
    path = getattr(made, video, made.out / "missing.mp4")
    assert _run(made, path, *extra) == 2
    error = capsys.readouterr().err
    assert error.startswith("manvatar eval: error: ") and error.count("\n") == 1
    assert any(part in error for part in message.split("|"))
    assert not (made.out / "scores.json").exists()


def test_a_part_without_held_out_frames(made: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    avatar = Avatar.load(made.avatar, "cpu")
    avatar.header.training["held_out_frames"] = [100, 101]
    avatar.save(made.avatar)
    assert _run(made, made.own) == 2
    assert "held out no frame of this part" in capsys.readouterr().err


def test_a_track_of_another_model(made: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    _track(made.track, face_model="flame-2020")
    assert _run(made, made.own) == 2
    assert "was made with the face model flame-2020" in capsys.readouterr().err


def test_a_track_with_more_coefficients_than_the_avatar(made: SimpleNamespace, tmp_path: Path) -> None:
    avatar = tiny_avatar()
    values = torch.arange(4.0).expand(FRAMES, 4).clone()
    track = load_track(_track(tmp_path / "t.safetensors", expression=values, expression_names=("gazeYaw", *NAMES)))
    assert _for_avatar(track, avatar).expression[0].tolist() == [1, 2, 3]
    with pytest.raises(UserError, match=f"lacks {NAMES[0]}, which the avatar has"):
        _for_avatar(dataclasses.replace(track, expression_names=("gazeYaw", "other", *NAMES[1:])), avatar)
