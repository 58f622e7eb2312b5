"""Training a 2D model on one video: it learns, the mouth follows, and resuming equals not stopping."""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path

import pytest
import torch
from baselines.one_video.small import CONFIG, small_dataset, small_rig, small_trainer
from ellipsoid import ellipsoid_image

from manvatar.baselines.one_video import PortraitTrainer, restore_checkpoint, save_checkpoint
from manvatar.baselines.one_video.models import Portrait
from manvatar.baselines.one_video.trainer import _mouth_loss, _uses_bfloat16
from manvatar.errors import UserError
from manvatar.metrics import nearest_frame_renderer, psnr_db, white_composite
from manvatar.types import Dataset


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return small_dataset()


@pytest.fixture(scope="module")
def trained(dataset: Dataset) -> PortraitTrainer:
    trainer = small_trainer(dataset)
    trainer.run(show_progress=False)
    return trainer


def held_out_psnr_db(dataset: Dataset, images: torch.Tensor) -> float:
    truth = torch.stack([white_composite(dataset.images[row]) for row in dataset.held_out.tolist()])
    return psnr_db(float((images - truth).square().mean()))


def test_it_learns_more_than_to_look_up(dataset: Dataset, trained: PortraitTrainer) -> None:
    """3 dB above the training frame that is nearest, after seconds."""
    with torch.no_grad():
        shown = trained.finished()(trained.frames.keypoints[dataset.held_out]).on_white()
    images = ((shown + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1)
    nearest = nearest_frame_renderer(dataset)
    rival = held_out_psnr_db(dataset, torch.stack([nearest(row) for row in dataset.held_out.tolist()]))
    assert held_out_psnr_db(dataset, images) > rival + 3
    assert trained.progress.iteration == CONFIG.iterations and trained.progress.psnr_db > 20


def test_the_mouth_follows(dataset: Dataset, trained: PortraitTrainer) -> None:
    """Between lips apart and together, in one pose, the picture changes as the truth does."""
    rig, pose, camera = small_rig(), dataset.cam_from_head[0], dataset.camera
    openings = (1.9, 0.1)
    expression = torch.tensor([[opening - 1, 0.0] for opening in openings])
    keypoints = rig.keypoints(expression, pose.expand(2, 4, 4), camera)
    with torch.no_grad():
        apart, together = trained.finished()(keypoints).on_white()
    truth = [white_composite(ellipsoid_image(camera, pose, opening)).permute(2, 0, 1) * 2 - 1 for opening in openings]
    wanted, found = truth[0] - truth[1], apart - together
    followed = float((wanted * found).sum() / wanted.square().sum())
    assert 0.5 < followed < 1.5


def test_fewshot_learns_too(dataset: Dataset) -> None:
    trainer = small_trainer(dataset, "fewshot", iterations=60)
    trainer.run(show_progress=False)
    with torch.no_grad():
        shown = trainer.finished()(trainer.frames.keypoints[dataset.held_out]).on_white()
    assert held_out_psnr_db(dataset, ((shown + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1)) > 18


def test_time_ends_a_run(dataset: Dataset) -> None:
    trainer = small_trainer(dataset, iterations=10_000)
    trainer.run(max_seconds=0.3, show_progress=False)
    assert 0.3 <= trainer.progress.seconds < 5 and 0 < trainer.progress.iteration < 10_000
    rates = [group["lr"] / group["initial_rate"] for group in trainer.optimizer.param_groups]
    assert max(rates) < 0.6  # they have come down with the time


# ------------------------------------------------------------------------------------------------------------- losses


def test_every_term_counts(dataset: Dataset) -> None:
    """A term with a weight adds its own value, one without adds nothing."""
    off = dict.fromkeys(("pixelwise", "gradients", "segmentation", "low_frequency", "mouth", "warp"), 0.0)
    total = 0.0
    trainer = small_trainer(dataset)
    batch = trainer.frames.batch(dataset.train[:4])
    portrait = trainer.model(batch.keypoints)
    for name in off:
        trainer.config = dataclasses.replace(CONFIG, loss=dataclasses.replace(CONFIG.loss, **{**off, name: 1.0}))
        value = float(trainer.loss(portrait, batch).detach())
        assert value > 1e-4, name
        total += value
    trainer.config = dataclasses.replace(CONFIG, loss=dataclasses.replace(CONFIG.loss, **dict.fromkeys(off, 1.0)))
    assert float(trainer.loss(portrait, batch).detach()) == pytest.approx(total, rel=1e-5)


def test_the_truth_costs_nothing(dataset: Dataset) -> None:
    trainer = small_trainer(dataset)
    batch = trainer.frames.batch(dataset.train[:2])
    perfect = Portrait(batch.image, None)
    assert float(trainer.loss(perfect, batch)) == 0
    assert float(_mouth_loss(batch.image, batch)) == 0


def test_the_log_says_what_is_left_out(dataset: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        small_trainer(dataset)
    assert "no weights of vgg19 and vggface" in caplog.text
    with pytest.raises(UserError, match="no such file: none.pth"):
        small_trainer(dataset, vgg19="none.pth")


def test_bfloat16_where_it_is_asked_for(dataset: Dataset) -> None:
    assert _uses_bfloat16("bfloat16", torch.device("cpu")) and not _uses_bfloat16("float32", torch.device("cpu"))
    trainer = small_trainer(dataset, precision="bfloat16", iterations=3)
    trainer.run(show_progress=False)
    assert trainer.progress.iteration == 3 and math.isfinite(trainer.progress.psnr_db)


# ----------------------------------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("model", ["bilayer", "fewshot"])
def test_resuming_equals_not_stopping(dataset: Dataset, tmp_path: Path, model: str) -> None:
    def fresh() -> PortraitTrainer:
        return small_trainer(dataset, model, iterations=6, augmentation=0.3)

    whole = fresh()
    whole.run(show_progress=False)
    first, second = fresh(), fresh()
    for iteration in range(3):
        first.step(iteration / 6)
    save_checkpoint(first, tmp_path / "half.safetensors", "run")
    torch.randn(7)  # what happens elsewhere meanwhile
    restore_checkpoint(second, tmp_path / "half.safetensors", "run")
    assert second.progress.iteration == 3
    second.run(show_progress=False)
    wanted, found = whole.finished().state_dict(), second.finished().state_dict()
    assert [name for name in wanted if not torch.equal(wanted[name], found[name])] == []
    assert whole.progress.psnr_db == second.progress.psnr_db


def test_checkpoints_that_do_not_belong(dataset: Dataset, tmp_path: Path) -> None:
    trainer, path = small_trainer(dataset), tmp_path / "c.safetensors"
    save_checkpoint(trainer, path, "run")
    with pytest.raises(UserError, match="belongs to another video, model"):
        restore_checkpoint(trainer, path, "other run")
    with pytest.raises(UserError, match="different version"):
        restore_checkpoint(small_trainer(dataset, "fewshot"), path, "run")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        restore_checkpoint(trainer, path, "run")
