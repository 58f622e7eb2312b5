"""A checkpoint restores the whole loop: weights, their average, optimiser, random numbers, place in the data.

Resuming equals not stopping.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from manvatar.baselines.one_video.trainer import PortraitTrainer, Progress
from manvatar.training.run_state import optimizer_tensors, part, reading_state, write_state

_KEY = "manvatar.portrait_checkpoint"


def save_checkpoint(trainer: PortraitTrainer, path: Path, run_id: str) -> None:
    """Write the state of a run. ``run_id`` names what must be the same for a resume: video, model, settings, seed."""
    tensors: dict[str, Tensor] = {f"model.{k}": v for k, v in trainer.model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in trainer.average.state_dict().items()}
    tensors |= optimizer_tensors(trainer.optimizer, trainer.model)
    tensors["generator"], tensors["order"] = trainer.generator.get_state(), trainer.order.left
    write_state(path, _KEY, run_id, trainer.progress, tensors)


def restore_checkpoint(trainer: PortraitTrainer, path: Path, run_id: str) -> None:
    """Bring ``trainer`` to the state of a checkpoint.

    Raises:
        UserError: the file is broken, of a newer version, or of another run (video, model, settings or seed differ).
    """
    with reading_state(path, _KEY, run_id, "video, model, size or seed") as (progress, tensors):
        _restore(trainer, tensors, Progress(**progress))


def _restore(trainer: PortraitTrainer, tensors: dict[str, Tensor], progress: Progress) -> None:
    trainer.model.load_state_dict(part(tensors, "model."))
    trainer.average.load_state_dict(part(tensors, "average."))
    for name, parameter in trainer.model.named_parameters():
        state = part(tensors, f"optimizer.{name}.")
        if state:
            # Moments lie in memory as their parameter does, so that sums come out in the same order as before.
            trainer.optimizer.state[parameter] = {
                k: torch.empty_like(parameter).copy_(v) if v.shape == parameter.shape else v for k, v in state.items()
            }
    trainer.generator.set_state(tensors["generator"])
    trainer.order.left = tensors["order"]
    trainer.progress = progress
