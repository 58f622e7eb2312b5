"""The file of an interrupted run: tensors, and in its metadata, as JSON, what is no tensor.

What a run consists of is said by those that keep it: :mod:`manvatar.training.checkpoint` and the 2D models'.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from manvatar.errors import UserError
from manvatar.files import replacing

FORMAT_VERSION = 1
_ADVICE = "delete it, or leave out --resume to start again"


def write_state(path: Path, key: str, run_id: str, progress: Any, tensors: dict[str, Tensor]) -> None:
    """Write a run's state, atomically.

    Args:
        key: of the metadata entry; names the kind of run.
        run_id: names what must be the same for a resume.
        progress: a dataclass of numbers.
    """
    header = {"format_version": FORMAT_VERSION, "run_id": run_id, "progress": dataclasses.asdict(progress)}
    with replacing(path) as temporary:
        save_file(_apart(tensors), temporary, metadata={key: json.dumps(header)})


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors of which no two share memory, which the file format asks for; copied only where they do."""
    taken: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        value = tensor.detach().contiguous()
        if value.untyped_storage().data_ptr() in taken:
            value = value.clone()
        taken.add(value.untyped_storage().data_ptr())
        result[name] = value
    return result


@contextmanager
def reading_state(path: Path, key: str, run_id: str, same: str) -> Iterator[tuple[dict, dict[str, Tensor]]]:
    """Yield progress and tensors of what :func:`write_state` wrote, to be restored in the block.

    Args:
        same: what ``run_id`` names, in words.

    Raises:
        UserError: the file is broken, of a newer version, or of another run; or the block finds that it does not fit.
    """
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})[key])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise UserError(f"the checkpoint {path} cannot be read ({type(error).__name__}); {_ADVICE}") from error
    if header["format_version"] > FORMAT_VERSION:
        raise UserError(f"the checkpoint {path} was written by a newer manvatar; update manvatar, or {_ADVICE}")
    if header["run_id"] != run_id:
        raise UserError(f"the checkpoint {path} belongs to another {same}; {_ADVICE}")
    try:
        yield header["progress"], tensors
    except (KeyError, RuntimeError, TypeError) as error:
        raise UserError(f"the checkpoint {path} was written by a different version of manvatar; {_ADVICE}") from error


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimiser's state under ``optimizer.<parameter>.<entry>``."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"optimizer.{names[parameter]}.{entry}": torch.as_tensor(value)
        for parameter, state in optimizer.state.items()
        for entry, value in state.items()
    }


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, without it."""
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
