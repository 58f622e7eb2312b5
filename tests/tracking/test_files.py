"""Tracks on disk."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from manvatar.errors import UserError
from manvatar.tracking import load_track, save_track
from manvatar.types import Camera, Track


def _track(frames: int = 5) -> Track:
    return Track(
        camera=Camera(torch.tensor([700.0, 700.0]), torch.tensor([320.0, 240.0]), (640, 480)),
        cam_from_head=torch.eye(4).repeat(frames, 1, 1),
        identity=torch.randn(7),
        expression=torch.randn(frames, 3),
        landmark_offsets_m=torch.randn(68, 3),
        residual_px=torch.tensor([0.5, float("nan"), 0.4, 0.3, 0.2])[:frames],
        valid=torch.tensor([True, False, True, True, True])[:frames],
        frame_rate_hz=29.97,
        landmark_scheme="ibug68",
        face_model="some-model",
        expression_names=("jawOpen", "eyeBlinkLeft", "smile"),
        focal_source="given",
    )


def test_round_trip_is_exact(tmp_path: Path) -> None:
    track = _track()
    save_track(track, tmp_path / "new" / "track.safetensors")
    found = load_track(tmp_path / "new" / "track.safetensors")
    for field in fields(Track):
        one, two = getattr(track, field.name), getattr(found, field.name)
        if isinstance(one, torch.Tensor):
            assert torch.equal(one.nan_to_num(-1), two.nan_to_num(-1)) and one.dtype == two.dtype
        elif field.name == "camera":
            assert torch.equal(one.focal_px, two.focal_px) and torch.equal(one.center_px, two.center_px)
            assert one.size_px == two.size_px
        else:
            assert one == two


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "track.safetensors"
    save_track(_track(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="not a whole track file"):
        load_track(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no track file"):
        load_track(tmp_path / "missing.safetensors")
    other = tmp_path / "weights.safetensors"
    save_file({"weight": torch.zeros(3)}, other)
    with pytest.raises(UserError, match="not a track"):
        load_track(other)
    text = tmp_path / "track.txt"
    text.write_text("no tensors here")
    with pytest.raises(UserError, match="not a whole track file"):
        load_track(text)


def _rewritten(path: Path, tensors: dict | None = None, **header: object) -> None:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    old = json.loads(metadata["header"])
    metadata["header"] = json.dumps({**old, **header})
    save_file({**load_file(path), **(tensors or {})}, path, metadata=metadata)


def test_newer_and_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "track.safetensors"
    save_track(_track(), path)
    _rewritten(path, version=99)
    with pytest.raises(UserError, match="format 99.*update manvatar"):
        load_track(path)
    _rewritten(path, version=1, landmark_scheme="other")
    with pytest.raises(UserError, match="damaged"):
        load_track(path)
    _rewritten(path, landmark_scheme="ibug68", tensors={"valid": torch.ones(4, dtype=torch.bool)})
    with pytest.raises(UserError, match="valid has shape"):
        load_track(path)


def test_a_failed_write_keeps_the_old_track(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "track.safetensors"
    save_track(_track(), path)
    before = path.read_bytes()

    def out_of_space(tensors: dict, filename: Path, metadata: dict) -> None:
        Path(filename).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("manvatar.tracking.files.save_file", out_of_space)
    with pytest.raises(OSError, match="no space"):
        save_track(_track(), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["track.safetensors"]
