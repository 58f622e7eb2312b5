"""A checkpoint restores the whole loop: weights, their average, optimiser, random numbers, place in the data.

One safetensors file; what is no tensor stands in its metadata as JSON. Resuming equals not stopping.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from manvatar.baselines.one_video.trainer import PortraitTrainer, Progress
from manvatar.errors import UserError
from manvatar.files import replacing

FORMAT_VERSION = 1
_KEY = "manvatar.portrait_checkpoint"


def save_checkpoint(trainer: PortraitTrainer, path: Path, run_id: str) -> None:
    """Write the state of a run. ``run_id`` names what must be the same for a resume: video, model, settings, seed."""
    tensors: dict[str, Tensor] = {f"model.{k}": v for k, v in trainer.model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in trainer.average.state_dict().items()}
    names = _parameter_names(trainer)
    for parameter, state in trainer.optimizer.state.items():
        tensors |= {f"optimizer.{names[parameter]}.{k}": torch.as_tensor(v) for k, v in state.items()}
    tensors["generator"], tensors["order"] = trainer.generator.get_state(), trainer.order.left
    header = {"format_version": FORMAT_VERSION, "run_id": run_id, "progress": dataclasses.asdict(trainer.progress)}
    with replacing(path) as temporary:
        contiguous = {k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
        save_file(contiguous, temporary, metadata={_KEY: json.dumps(header)})


def restore_checkpoint(trainer: PortraitTrainer, path: Path, run_id: str) -> None:
    """Bring ``trainer`` to the state of a checkpoint.

    Raises:
        UserError: the file is broken, of a newer version, or of another run (video, model, settings or seed differ).
    """
    advice = "delete it, or leave out --resume to start again"
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise UserError(f"the checkpoint {path} cannot be read ({type(error).__name__}); {advice}") from error
    if header["format_version"] > FORMAT_VERSION:
        raise UserError(f"the checkpoint {path} was written by a newer manvatar; update manvatar, or {advice}")
    if header["run_id"] != run_id:
        raise UserError(f"the checkpoint {path} belongs to another video, model, size or seed; {advice}")
    try:
        _restore(trainer, tensors, Progress(**header["progress"]))
    except (KeyError, RuntimeError, TypeError) as error:
        raise UserError(f"the checkpoint {path} was written by a different version of manvatar; {advice}") from error


def _restore(trainer: PortraitTrainer, tensors: dict[str, Tensor], progress: Progress) -> None:
    trainer.model.load_state_dict(_part(tensors, "model."))
    trainer.average.load_state_dict(_part(tensors, "average."))
    for parameter, name in _parameter_names(trainer).items():
        state = _part(tensors, f"optimizer.{name}.")
        if state:
            # Moments lie in memory as their parameter does, so that sums come out in the same order as before.
            trainer.optimizer.state[parameter] = {
                k: torch.empty_like(parameter).copy_(v) if v.shape == parameter.shape else v for k, v in state.items()
            }
    trainer.generator.set_state(tensors["generator"])
    trainer.order.left = tensors["order"]
    trainer.progress = progress


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def _parameter_names(trainer: PortraitTrainer) -> dict[Tensor, str]:
    return {parameter: name for name, parameter in trainer.model.named_parameters()}
