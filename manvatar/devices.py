"""Where tensors live, by name."""

from __future__ import annotations

from typing import Literal

import torch

from manvatar.errors import UserError

Device = Literal["auto", "cpu", "cuda"]


def pick_device(name: str) -> torch.device:
    """``auto`` is the GPU where there is one.

    Raises:
        UserError: there is no such name, or no GPU.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise UserError(f"there is no device {name!r}; choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("no CUDA device was found; choose --device cpu or auto")
    return torch.device(name)
