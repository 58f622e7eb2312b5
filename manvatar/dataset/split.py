"""Which frames are trained on and which are only looked at in the end."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from manvatar.errors import UserError

MIN_TRAIN_FRAMES = 8


def tail_length(count: int, holdout: float) -> int:
    """How many of ``count`` frames are held out, before any of them is looked at.

    Args:
        holdout: below 1 the fraction of all frames that is held out, otherwise their number; 0 holds out nothing.

    Raises:
        UserError: ``holdout`` is impossible, or not even good frames would be left to train on.
    """
    if not 0 <= holdout < math.inf:
        raise UserError(f"--holdout {holdout:g} is not possible; give a fraction below 1 or a number of frames")
    tail = round(count * holdout) if holdout < 1 else min(int(holdout), count)
    _require_enough(count - tail, count, tail)
    return tail


def split_tail(
    usable: Bool[Tensor, "frames"], duplicate: Bool[Tensor, "frames"], holdout: float
) -> tuple[Int[Tensor, "train"], Int[Tensor, "held_out"]]:
    """Train on the beginning, hold out the end.

    Args:
        usable: frames with a face and a good track; others are neither trained on nor scored.
        duplicate: frames that repeat the one before; not trained on twice.
        holdout: as in :func:`tail_length`.

    Raises:
        UserError: ``holdout`` is impossible, or too few frames are left to train on.
    """
    count = len(usable)
    tail = tail_length(count, holdout)
    index = torch.arange(count)
    train = index[usable & ~duplicate & (index < count - tail)]
    held_out = index[usable & (index >= count - tail)]
    _require_enough(len(train), count, tail)
    return train, held_out


def _require_enough(left: int, count: int, tail: int) -> None:
    if left < MIN_TRAIN_FRAMES:
        raise UserError(
            f"only {left} usable frames are left to train on (of {count}, {tail} held out), {MIN_TRAIN_FRAMES} are "
            "needed; give a longer video, one in which the face is seen, or a smaller --holdout"
        )
