"""A checkpoint restores the whole loop: weights, optimiser, occupancy, random numbers, place in the data.

Resuming equals not stopping: bit for bit on the CPU, up to rounding on a GPU.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from manvatar.training.run_state import optimizer_tensors, part, reading_state, write_state
from manvatar.training.trainer import Progress, Trainer

_KEY = "manvatar.checkpoint"


def save_checkpoint(trainer: Trainer, path: Path, run_id: str) -> None:
    """Write the state of a run. ``run_id`` names what must be the same for a resume: video, preset, seed, sizes."""
    tensors: dict[str, Tensor] = {f"field.{k}": v for k, v in trainer.field.state_dict().items()}
    tensors |= {f"occupancy.{k}": v for k, v in trainer.occupancy.state_dict().items()}
    tensors |= optimizer_tensors(trainer.optimizer, trainer.field)
    tensors["generator"] = trainer.generator.get_state()
    tensors["sampler"] = trainer.sampler.state()
    tensors["squared_error"] = trainer.squared_error
    write_state(path, _KEY, run_id, trainer.progress, tensors)


def restore_checkpoint(trainer: Trainer, path: Path, run_id: str) -> None:
    """Bring ``trainer`` to the state of a checkpoint.

    Raises:
        UserError: the file is broken, of a newer version, or of another run (video, preset, seed or size differ).
    """
    with reading_state(path, _KEY, run_id, "video, preset, size or seed") as (progress, tensors):
        _restore(trainer, tensors, Progress(**progress))


def _restore(trainer: Trainer, tensors: dict[str, Tensor], progress: Progress) -> None:
    trainer.field.load_state_dict(part(tensors, "field."))
    trainer.occupancy.load_state_dict(part(tensors, "occupancy."))
    for name, parameter in trainer.field.named_parameters():
        state = part(tensors, f"optimizer.{name}.")
        if state:
            there = {key: value if key == "step" else value.to(parameter.device) for key, value in state.items()}
            trainer.optimizer.state[parameter] = there
    trainer.generator.set_state(tensors["generator"])
    trainer.sampler.restore(tensors["sampler"])
    trainer.squared_error.copy_(tensors["squared_error"])
    trainer.progress = progress
    trainer.refresh_tables()
