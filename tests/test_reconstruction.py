"""The whole pipeline from Python."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_fit import PRESET, SmallFit

import manvatar
import manvatar.reconstruction
from manvatar import Avatar, Reconstructor
from manvatar.errors import UserError
from manvatar.reconstruction import Result
from manvatar.tracking import load_track
from manvatar.video import open_clip


@pytest.fixture
def brief(small_fit: SmallFit) -> Path:
    """The preset of the small fit, with next to no training."""
    path = small_fit.preset.with_name("brief.toml")
    path.write_text(re.sub(r"iterations = \d+", "iterations = 5", PRESET, count=1))
    return path


def test_from_video_to_avatar_in_one_line(
    small_fit: SmallFit, brief: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without an output folder nothing is left anywhere, and without progress nothing is said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    avatar = Reconstructor(preset=str(brief), size_px=64, seed=7).fit(str(small_fit.video), show_progress=False)
    assert isinstance(avatar, Avatar) and avatar.header.training["iterations"] == 5
    assert avatar.header.training["seed"] == 7 and avatar.header.scores == {}
    assert avatar.header.training["held_out_frames"] == [22, 23]  # the last tenth
    assert os.listdir(tmp_path) == []
    output = capfd.readouterr()
    assert output.out == "" and "it/s" not in output.err and "frame" not in output.err
    avatar.save(tmp_path / "mine.mav")
    again = manvatar.load(str(tmp_path / "mine.mav"), "cpu")
    difference = again.render(again.neutral).int() - avatar.render(avatar.neutral).int()
    assert difference.abs().float().mean() < 1  # half precision


def test_a_part_of_the_video_and_nothing_held_out(
    small_fit: SmallFit, brief: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toured: list[Path] = []
    monkeypatch.setattr(manvatar.reconstruction, "write_novel", lambda path, *_, **__: toured.append(path))
    maker = Reconstructor(preset=str(brief), size_px=64, holdout=0.0)
    result = maker.run(small_fit.video, tmp_path / "out", start_s=1.0, end_s=3.1, show_progress=False)
    assert isinstance(result, Result) and result.report is None
    assert sorted(os.listdir(tmp_path / "out")) == ["avatar.mav", "track.safetensors", "track_report.png"]
    assert toured == [tmp_path / "out" / "novel.mp4"]
    avatar = Avatar.load(tmp_path / "out" / "avatar.mav", "cpu")
    assert avatar.header.training["held_out_frames"] == [] and avatar.header.scores == {}
    assert load_track(tmp_path / "out" / "track.safetensors").frame_count == 11


def test_a_run_is_known_by_everything_that_matters(small_fit: SmallFit, brief: Path, tmp_path: Path) -> None:
    clip = open_clip(small_fit.video)
    usual = Reconstructor(preset=str(brief))
    same = Reconstructor(preset=str(brief))._run_id(clip)
    assert same == usual._run_id(clip)
    others = [
        Reconstructor(preset=str(small_fit.preset)),
        Reconstructor(preset=str(brief), face_model="other.npz"),
        Reconstructor(preset=str(brief), landmarks="points.csv"),
        Reconstructor(preset=str(brief), holdout=0.2),
        Reconstructor(preset=str(brief), size_px=128),
        Reconstructor(preset=str(brief), seed=1),
    ]
    ids = {other._run_id(clip) for other in others}
    ids |= {usual._run_id(replace(clip, first_frame=1)), usual._run_id(replace(clip, frame_count=20))}
    copied = tmp_path / "clip.mp4"
    copied.write_bytes(small_fit.video.read_bytes() + b"\0")
    ids.add(usual._run_id(replace(clip, path=copied)))
    assert len(ids | {same}) == len(others) + 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "fats"}, "there is no preset 'fats'"),
        ({"size_px": 100}, "give a multiple of 8 from 64 to 1024"),
        ({"size_px": 2048}, "give a multiple of 8 from 64 to 1024"),
        ({"device": "tpu"}, "there is no device 'tpu'; choose auto, cpu or cuda"),
    ],
)
def test_impossible_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        Reconstructor(**arguments)


def test_an_unusable_video(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        Reconstructor().fit(tmp_path / "none.mp4", tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_training_does_not_depend_on_what_was_drawn_before(small_fit: SmallFit, brief: Path) -> None:
    """The seed decides alone, whatever the program has done with torch's global generator."""
    made = []
    for before in (1, 2):
        torch.manual_seed(before)
        reconstructor = Reconstructor(preset=str(brief), size_px=64, device="cpu")
        avatar = reconstructor.fit(small_fit.video, end_s=2.1, show_progress=False)
        made.append(avatar.field.state_dict())
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
