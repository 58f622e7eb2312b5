"""The export command as a user types it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from exporting.parity import SMALL, weights
from tiny_avatar import tiny_avatar

from manvatar.avatars import Avatar
from manvatar.errors import UserError
from manvatar.export import main
from manvatar.exporting.avatarmav import NAMES, FrameParameters, read_checkpoint, read_folder, write_parameters
from manvatar.models import ensure
from manvatar.synthesis import make_clip
from manvatar.tracking import save_track


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path, ours = tmp_path / "headnerf_latest", weights(SMALL, 2)
    torch.save({theirs: ours[name].float() for theirs, name in NAMES.items()}, path)
    return path


def test_weights_to_an_avatar_and_back(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, avatar = tmp_path / "somebody", tmp_path / "a.mav"
    expression = torch.tensor([[-1.0] * 64, [2.0] * 64])
    write_parameters(folder, FrameParameters(torch.zeros(2, 6), torch.full((2,), 0.08), expression))
    arguments = ["--what", "avatar", "--params", str(folder), "--size", "24", "-o", str(avatar)]
    assert main([str(checkpoint), *arguments]) == 0
    loaded = Avatar.load(avatar, "cpu")
    assert [bound.unique().tolist() for bound in loaded.expression_range] == [[-1.0], [2.0]]
    assert loaded.camera.size_px == (24, 24)
    assert loaded.field.config.density_scale_per_m == pytest.approx(80)
    again = tmp_path / "again"
    assert main([str(avatar), "--what", "checkpoint", "--params", str(folder), "-o", str(again)]) == 0
    assert "of scale 0.08" in capsys.readouterr().out
    for name, value in read_checkpoint(checkpoint)[1].items():
        torch.testing.assert_close(read_checkpoint(again)[1][name], value)


def test_a_video_to_a_dataset_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        ensure("selfie_segmentation")
    except UserError as error:
        pytest.skip(f"needs the landmark and matte models: {error}")
    truth = make_clip(tmp_path / "clip.mp4", frames=12, size_px=160, frame_rate_hz=5.0)
    save_track(truth, tmp_path / "track.safetensors")
    out = tmp_path / "somebody"
    arguments = ["--what", "dataset", "--track", str(tmp_path / "track.safetensors"), "--size", "64", "--holdout", "2"]
    assert main([str(tmp_path / "clip.mp4"), *arguments, "-o", str(out)]) == 0
    assert "10 frames of 64 x 64 pixels" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["images", "params"]
    dataset = read_folder(out, tmp_path / "work", "run", holdout=1.0)
    assert dataset.camera.size_px == (64, 64) and len(dataset.train) == 9
    head = dataset.images[0, ..., 3].float() / 255
    row, column = (dataset.landmarks_px[0].mean(0).flip(0)).long().tolist()
    assert head[row, column] > 0.5 and 0.1 < head.mean() < 0.9  # the face is where the poses say
    wrong = ["--what", "dataset", "--track", str(tmp_path / "track.safetensors"), "--end", "1"]
    assert main([str(tmp_path / "clip.mp4"), *wrong, "-o", str(tmp_path / "other")]) == 2
    assert "tracks 12 frames" in capsys.readouterr().err


def test_what_cannot_be(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(checkpoint), "--what", "avatar", "-o", str(tmp_path / "a.txt")]) == 2
    assert "an avatar is a .mav file" in capsys.readouterr().err
    tiny_avatar().save(tmp_path / "ball.mav")
    assert main([str(tmp_path / "ball.mav"), "--what", "checkpoint", "-o", str(tmp_path / "out")]) == 2
    assert "can only use 'paper'" in capsys.readouterr().err
