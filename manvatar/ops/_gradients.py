"""Where the gradient of a leaf goes."""

from __future__ import annotations

import torch
from torch import Tensor


def place_for_gradient(tensor: Tensor, in_place: bool) -> tuple[Tensor, bool]:
    """A dense tensor to add the gradient of ``tensor`` to, and whether it is the gradient ``tensor`` has already.

    If it is, autograd must be told that there is none, or it would be added twice.
    """
    if in_place and tensor.is_leaf and tensor.grad is not None and tensor.grad.is_contiguous():
        return tensor.grad, True
    return torch.zeros_like(tensor, memory_format=torch.contiguous_format), False
