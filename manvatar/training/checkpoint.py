"""A checkpoint restores the whole loop: weights, optimiser, occupancy, random numbers, place in the data.

One safetensors file; what is no tensor stands in its metadata as JSON. Resuming equals not stopping: bit for bit on
the CPU, up to rounding on a GPU.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from manvatar.errors import UserError
from manvatar.files import replacing
from manvatar.training.trainer import Progress, Trainer

FORMAT_VERSION = 1


def save_checkpoint(trainer: Trainer, path: Path, run_id: str) -> None:
    """Write the state of a run. ``run_id`` names what must be the same for a resume: video, preset, seed, sizes."""
    tensors: dict[str, Tensor] = {f"field.{k}": v for k, v in trainer.field.state_dict().items()}
    tensors |= {f"occupancy.{k}": v for k, v in trainer.occupancy.state_dict().items()}
    names = _parameter_names(trainer)
    for parameter, state in trainer.optimizer.state.items():
        tensors |= {f"optimizer.{names[parameter]}.{k}": torch.as_tensor(v) for k, v in state.items()}
    tensors["generator"] = trainer.generator.get_state()
    tensors["sampler"] = trainer.sampler.state()
    tensors["squared_error"] = trainer.squared_error
    header = {
        "format_version": FORMAT_VERSION,
        "run_id": run_id,
        "progress": dataclasses.asdict(trainer.progress),
    }
    with replacing(path) as temporary:
        contiguous = {k: v.detach().contiguous() for k, v in tensors.items()}
        save_file(contiguous, temporary, metadata={"manvatar.checkpoint": json.dumps(header)})


def restore_checkpoint(trainer: Trainer, path: Path, run_id: str) -> None:
    """Bring ``trainer`` to the state of a checkpoint.

    Raises:
        UserError: the file is broken, of a newer version, or of another run (video, preset, seed or size differ).
    """
    advice = "delete it, or leave out --resume to start again"
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})["manvatar.checkpoint"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise UserError(f"the checkpoint {path} cannot be read ({type(error).__name__}); {advice}") from error
    if header["format_version"] > FORMAT_VERSION:
        raise UserError(f"the checkpoint {path} was written by a newer manvatar; update manvatar, or {advice}")
    if header["run_id"] != run_id:
        raise UserError(f"the checkpoint {path} belongs to another video, preset, size or seed; {advice}")
    try:
        _restore(trainer, tensors, Progress(**header["progress"]))
    except (KeyError, RuntimeError, TypeError) as error:
        raise UserError(f"the checkpoint {path} was written by a different version of manvatar; {advice}") from error


def _restore(trainer: Trainer, tensors: dict[str, Tensor], progress: Progress) -> None:
    trainer.field.load_state_dict(_part(tensors, "field."))
    trainer.occupancy.load_state_dict(_part(tensors, "occupancy."))
    for parameter, name in _parameter_names(trainer).items():
        state = _part(tensors, f"optimizer.{name}.")
        if state:
            there = {key: value if key == "step" else value.to(parameter.device) for key, value in state.items()}
            trainer.optimizer.state[parameter] = there
    trainer.generator.set_state(tensors["generator"])
    trainer.sampler.restore(tensors["sampler"])
    trainer.squared_error.copy_(tensors["squared_error"])
    trainer.progress = progress
    trainer.refresh_tables()


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def _parameter_names(trainer: Trainer) -> dict[Tensor, str]:
    return {parameter: name for name, parameter in trainer.field.named_parameters()}
