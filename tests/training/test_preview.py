"""The picture of how far training has come."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
from training.small import small_dataset, small_trainer

from manvatar.metrics import white_composite
from manvatar.training import LivePreview


def test_truth_over_render(tmp_path: Path) -> None:
    dataset = small_dataset()
    path = tmp_path / "training.png"
    preview, trainer = LivePreview(dataset, path, frames=2), small_trainer(dataset)
    preview(trainer)
    first = iio.imread(path)
    assert first.shape == (64, 64, 3)
    truth = torch.cat([white_composite(dataset.images[row]) for row in dataset.held_out.tolist()], 1)
    assert np.abs(first[:32] / 255 - truth.numpy()).max() < 0.003
    assert (first[32:] < 200).any()  # there is something below, too
    trainer.run(show_progress=False)
    preview(trainer)
    assert (iio.imread(path)[:32] == first[:32]).all() and (iio.imread(path)[32:] != first[32:]).any()
    assert [file.name for file in tmp_path.iterdir()] == ["training.png"]


def test_training_frames_where_none_is_held_out(tmp_path: Path) -> None:
    dataset = replace(small_dataset(), held_out=torch.zeros(0, dtype=torch.int64))
    LivePreview(dataset, tmp_path / "p.png", frames=1)(small_trainer(dataset))
    first = iio.imread(tmp_path / "p.png")[:32]
    assert np.abs(first / 255 - white_composite(dataset.images[0]).numpy()).max() < 0.003
