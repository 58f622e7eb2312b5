"""Where tensors live, by name."""

from __future__ import annotations

from typing import Literal

import torch

from manvatar.errors import UserError
from manvatar.ops import has_cuda

Device = Literal["auto", "cpu", "cuda"]


def pick_device(name: str, native: bool = True) -> torch.device:
    """``auto`` is the GPU where there is one that can be used.

    Args:
        native: whether the native ops will be needed there, so that they must have been built for it.

    Raises:
        UserError: there is no such name, no GPU, or no native ops for it.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"there is no device {name!r}; choose auto, cpu or cuda")
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise UserError("no CUDA device was found; choose --device cpu or auto")
    if name == "cuda" and native and not has_cuda():
        raise UserError(
            "the native ops are not built for CUDA; build them where nvcc is installed (MANVATAR_CUDA=1 make install), "
            "or choose --device cpu"
        )
    usable = there and (has_cuda() or not native)
    return torch.device("cuda" if name == "cuda" or (name == "auto" and usable) else "cpu")
