"""From a video to an avatar with the paper's field, as a user types it, only smaller."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from ellipsoid import ellipsoid_dataset, landmarks_head_m

from manvatar.avatars import Avatar
from manvatar.errors import UserError
from manvatar.exporting.avatarmav import read_checkpoint, write_checkpoint, write_folder
from manvatar.fields import PaperField
from manvatar.fit import main
from manvatar.models import ensure
from manvatar.synthesis import make_clip
from manvatar.training import load_preset

# The shipped preset with less of everything.
SMALLER = {
    "iterations = 10000": "iterations = 60",
    "half_size_iterations = 6000": "half_size_iterations = 36",
    "rays_per_iteration = 4096": "rays_per_iteration = 256",
    "samples_per_ray = 64": "samples_per_ray = 16",
    "size_px = 512": "size_px = 64",
    "[training]": "[field]\nmotion_cells = 8\ncanonical_cells = 16\nhidden = 16\n\n[training]",
}


@pytest.fixture
def preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("manvatar.reconstruction.write_novel", lambda *_, **__: None)  # 500 frames, tested elsewhere
    text = (Path(__file__).parents[2] / "configs" / "paper.toml").read_text()
    for was, becomes in SMALLER.items():
        assert text.count(was) >= 1, was
        text = text.replace(was, becomes)
    (tmp_path / "small.toml").write_text(text)
    assert load_preset(str(tmp_path / "small.toml")).training.half_size_iterations == 36
    return tmp_path / "small.toml"


def test_fit(tmp_path: Path, preset: Path) -> None:
    try:
        ensure("selfie_segmentation")  # and, with it, all others
    except UserError as error:
        pytest.skip(f"needs the landmark and matte models: {error}")
    make_clip(tmp_path / "clip.mp4", frames=16, size_px=128, frame_rate_hz=5.0)
    out = tmp_path / "out"
    arguments = ["--preset", str(preset), "--holdout", "2", "-o", str(out)]
    assert main([str(tmp_path / "clip.mp4"), *arguments]) == 0
    scores = json.loads((out / "scores.json").read_text())
    assert scores["iterations"] == 60 and scores["size_px"] == [64, 64] and scores["frame"]["psnr_db"] > 13
    avatar = Avatar.load(out / "avatar.mav", "cpu")
    assert isinstance(avatar.field, PaperField) and avatar.header.bounds_lower_m == pytest.approx(
        (-0.12, -0.139, -0.193)
    )
    assert not (out / "work").exists()
    write_checkpoint(avatar, tmp_path / "headnerf_latest")
    config, tensors = read_checkpoint(tmp_path / "headnerf_latest")
    assert config.canonical_cells == 16 and tensors["motion_basis"].abs().max() > 0


def test_fit_on_a_dataset_folder(tmp_path: Path, preset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is tracked and cut out already, and its scale says what densities weigh."""
    folder, out = tmp_path / "somebody", tmp_path / "out"
    made = ellipsoid_dataset(frames=14, held_out=0, size_px=64)
    written = write_folder(made, landmarks_head_m()[36:].expand(14, -1, -1), folder)
    arguments = [str(folder), "--preset", str(preset), "--holdout", "2", "-o", str(out)]
    assert main([*arguments, "--start", "1"]) == 2
    assert "--start and --end are for videos" in capsys.readouterr().err
    assert main(arguments) == 0
    scores = json.loads((out / "scores.json").read_text())
    assert scores["frames"] == 2 and scores["frame"]["psnr_db"] > 13
    avatar = Avatar.load(out / "avatar.mav", "cpu")
    assert avatar.field.config.density_scale_per_m == pytest.approx(1000 * written.scale, rel=1e-5)
    assert len(avatar.expression_names) == 64 and avatar.header.provenance["folder"] == "somebody"
    write_checkpoint(avatar, tmp_path / "headnerf_latest", written.scale)
    theirs = read_checkpoint(tmp_path / "headnerf_latest")[1]["density.out.weight"]
    torch.testing.assert_close(theirs, avatar.field.density.out.weight.detach())
