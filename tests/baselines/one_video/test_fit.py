"""``fit --model``: a 2D model of a video, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_fit import SmallFit

import manvatar.reconstruction
from manvatar.baselines.one_video import PortraitAvatar, load_config
from manvatar.errors import UserError
from manvatar.fit import main
from manvatar.reconstruction import Reconstructor
from manvatar.types import Clip
from manvatar.video import open_clip

SETTINGS = """
iterations = 8
images_per_iteration = 4
precision = "float32"

[network]
width = 8
max_width = 32
"""


def test_all_that_fit_makes(small_fit: SmallFit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manvatar.reconstruction, "write_novel", lambda *_, **__: None)
    (tmp_path / "small.toml").write_text(SETTINGS)
    out = tmp_path / "out"
    more = ["--model", "bilayer", "--preset", str(tmp_path / "small.toml"), "--size", "64", "--holdout", "3"]
    assert main([str(small_fit.video), "-o", str(out), *more]) == 0
    made = ["avatar.mav", "contact.png", "preview.mp4", "scores.json", "track.safetensors", "track_report.png"]
    assert sorted(path.name for path in out.iterdir()) == made
    table = json.loads((out / "scores.json").read_text())
    assert (table["preset"], table["iterations"], table["frames"]) == ("bilayer", 8, 3)
    assert 14 < table["frame"]["psnr_db"] < 60 and table["nearest_frame"]["frame"]["psnr_db"] > 14
    avatar = PortraitAvatar.load(out / "avatar.mav", "cpu")
    assert avatar.header.scores["frame"]["psnr_db"] == table["frame"]["psnr_db"]
    assert avatar.render({"jawOpen": 1.0}).shape == (64, 64, 4)
    assert avatar.rig.neutral_m.shape == (70, 3) and avatar.model.texture_points.shape == (1, 70, 2)
    awake, asleep = (avatar.rig.points_m(avatar.expression({"eyelidLeft": value})) for value in (0.0, 2.0))
    assert (awake - asleep)[[43, 44], 1].min() > 0.002  # metres
    assert len(avatar.header.arkit) == 52
    assert open_clip(out / "preview.mp4").frame_count == 3


@pytest.mark.parametrize(
    ("model", "preset", "size", "message"),
    [
        ("voxels", "fast", None, "there is no model 'voxels'"),
        ("bilayer", "paper", None, "the preset paper is for the voxel avatar"),
        ("bilayer", "fast", 96, "--size 96 is not possible with --model bilayer"),
        ("fewshot", "fats", None, "there is no preset 'fats'"),
    ],
)
def test_settings_that_cannot_be(model: str, preset: str, size: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(model, preset, size)


def test_folders_without_landmarks_are_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manvatar.reconstruction, "open_source", lambda *_: Clip(tmp_path, 25.0, (64, 64), 30))
    with pytest.raises(UserError, match="has no landmarks, which drive --model fewshot"):
        Reconstructor(model="fewshot").prepare(tmp_path, tmp_path / "out" / "work")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("iterations = 0", "iterations = 0 is not possible"),
        ("rate = -1.0", "rate = -1.0 is not possible"),
        ("average_decay = 1.0", "average_decay in"),
        ("adam_betas = [0.9]", "give two numbers"),
        ("[loss]\nmuoth = 1.0", "unknown key 'muoth'"),
    ],
)
def test_files_of_settings(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "settings.toml").write_text(text)
    with pytest.raises(UserError, match=message):
        load_config("bilayer", str(tmp_path / "settings.toml"), None)


def test_a_file_says_what_differs(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("seconds = 60.0\n[network]\nimage_size_px = 128\n[loss]\nmouth = 0.5\n")
    config, usual = load_config("bilayer", str(tmp_path / "settings.toml"), None), load_config("bilayer", "fast", None)
    assert (config.seconds, config.network.image_size_px, config.loss.mouth) == (60.0, 128, 0.5)
    assert config.rate == usual.rate and usual.network.image_size_px == 256
    assert load_config("fewshot", "fast", 128).images_per_iteration < usual.images_per_iteration
