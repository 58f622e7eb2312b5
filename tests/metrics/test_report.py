"""Scoring an avatar into a folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from tiny_avatar import rendered, tiny_avatar, tiny_dataset

from manvatar.avatars import dataset_renderer
from manvatar.errors import UserError
from manvatar.metrics import RunFacts, write_report


def test_an_avatar_scored_on_its_own_images(tmp_path: Path) -> None:
    avatar = tiny_avatar()
    dataset = rendered(avatar, tiny_dataset())
    report = write_report(tmp_path / "out", dataset, dataset_renderer(avatar, dataset), RunFacts(train_s=1.0))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["contact.png", "preview.mp4", "scores.json"]
    # Only the rounding of the images to 8 bits is left, of colour and of alpha.
    assert 50 < report.scores.frame.psnr_db < 70
    assert report.nearest is not None and report.nearest.frame.psnr_db < 40
    table = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert table["frame"]["psnr_db"] == report.scores.frame.psnr_db
    assert table["seconds"]["train"] == 1.0 and table["seconds"]["score"] > 0
    assert report.summary().startswith("4 frames: ") and "nearest training frame" in report.summary()


def test_without_training_frames_there_is_no_rival(tmp_path: Path) -> None:
    avatar = tiny_avatar()
    dataset = rendered(avatar, tiny_dataset(frames=3, held_out=3))
    report = write_report(tmp_path, dataset, dataset_renderer(avatar, dataset), RunFacts(score_s=2.0))
    assert report.nearest is None and report.facts.score_s == 2.0
    assert json.loads((tmp_path / "scores.json").read_text())["nearest_frame"] is None


def test_a_renderer_that_fails_leaves_no_half_written_file(tmp_path: Path) -> None:
    dataset = tiny_dataset()

    def renderer(row: int) -> torch.Tensor:
        if row == int(dataset.held_out[2]):
            raise RuntimeError("out of memory")
        return torch.ones(48, 48, 3)

    with pytest.raises(RuntimeError, match="out of memory"):
        write_report(tmp_path, dataset, renderer, RunFacts())
    assert list(tmp_path.iterdir()) == []


def test_an_avatar_of_another_face_model(tmp_path: Path) -> None:
    dataset = dataclasses.replace(tiny_dataset(), expression=torch.zeros(12, 5))
    with pytest.raises(UserError, match="5 expression coefficients but the avatar has 3"):
        dataset_renderer(tiny_avatar(), dataset)
