"""From a dataset to a 2D model of one person that can be driven: train, average, write down what it is."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from manvatar.avatars import make_header, provenance
from manvatar.baselines.one_video.avatar import PortraitAvatar
from manvatar.baselines.one_video.checkpoint import restore_checkpoint, save_checkpoint
from manvatar.baselines.one_video.rig import LandmarkRig
from manvatar.baselines.one_video.trainer import PortraitTrainer
from manvatar.face_models.arkit import track_table
from manvatar.files import replacing
from manvatar.mark import save_image
from manvatar.metrics import white_composite
from manvatar.rendering import MarchConfig
from manvatar.types import Clip, Dataset, FaceModel, Track

_CHECKPOINT_SECONDS = 30.0
# What a model is, for people who read the header of its file.
DESCRIPTIONS = {
    "bilayer": "bi-layer model, person-specific form: free texture and adaptive values, trained on one video",
    "fewshot": "generator of the few-shot model with free AdaIN values, trained from nothing on one video",
}


def train_portrait(
    trainer: PortraitTrainer,
    checkpoint: Path,
    run_id: str,
    max_seconds: float,
    resume: bool,
    show_progress: bool = True,
) -> None:
    """Train to the end, with a checkpoint every now and then and a picture beside its folder to look at.

    Args:
        checkpoint: file of the run's state; ``training.png`` is written into the folder above its own.
        run_id: see :func:`~manvatar.baselines.one_video.checkpoint.save_checkpoint`.
        resume: go on from ``checkpoint`` where it is.

    Raises:
        UserError: the checkpoint cannot be used or written.
    """
    if resume and checkpoint.is_file():
        restore_checkpoint(trainer, checkpoint, run_id)
    preview = PortraitPreview(trainer.dataset, checkpoint.parent.parent / "training.png")
    last = time.perf_counter()

    def after_iteration(trainer: PortraitTrainer) -> None:
        nonlocal last
        if time.perf_counter() - last >= _CHECKPOINT_SECONDS:
            save_checkpoint(trainer, checkpoint, run_id)
            preview(trainer)
            last = time.perf_counter()

    trainer.run(max_seconds, after_iteration, show_progress)


def make_portrait(
    trainer: PortraitTrainer,
    clip: Clip,
    track: Track,
    face_model: FaceModel,
) -> PortraitAvatar:
    """The avatar that a finished run has made.

    Args:
        clip: what the dataset was made from, as was ``track``.
        face_model: the one the track was made with.
    """
    training = {
        "method": DESCRIPTIONS[trainer.name],
        "iterations": trainer.progress.iteration,
        "seconds": round(trainer.progress.seconds, 1),
        "seed": trainer.seed,
        "device": trainer.device.type,
    }
    header = make_header(
        trainer.dataset,
        preset=trainer.name,
        field_name=trainer.name,
        field_config=trainer.config.network,
        march=MarchConfig(),  # there are no rays
        occupancy_cell_m=0.0,
        face_model=track.face_model,
        expression_names=track.expression_names,
        clip_first_frame=clip.first_frame,
        training=training,
        provenance=provenance(clip.path),
        arkit=track_table(face_model, track),
    )
    return PortraitAvatar(header, trainer.finished(), LandmarkRig.from_track(track, face_model))


class PortraitPreview:
    """Call it with the trainer to write a picture anew: some held-out frames, truth over what the model shows."""

    def __init__(self, dataset: Dataset, path: Path, frames: int = 3) -> None:
        rows = dataset.held_out if len(dataset.held_out) else dataset.train
        self.rows = rows[torch.linspace(0, len(rows) - 1, min(frames, len(rows))).long()]
        self.dataset, self.path = dataset, path

    @torch.no_grad()
    def __call__(self, trainer: PortraitTrainer) -> None:
        model = trainer.average.eval()  # its norms as they are: near enough for a glance
        shown = (
            ((model(trainer.frames.keypoints[self.rows].to(trainer.device)).on_white() + 1) / 2)
            .clamp(0, 1)
            .permute(0, 2, 3, 1)
            .cpu()
        )
        columns = [
            torch.cat([white_composite(self.dataset.images[row]), image])
            for row, image in zip(self.rows.tolist(), shown, strict=True)
        ]
        with replacing(self.path) as temporary:
            save_image(temporary, (torch.cat(columns, 1) * 255).round().to(torch.uint8))
