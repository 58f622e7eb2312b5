"""Which frames are trained on and which are only looked at in the end."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from manvatar.errors import UserError

MIN_TRAIN_FRAMES = 8


def split_tail(
    usable: Bool[Tensor, "frames"], duplicate: Bool[Tensor, "frames"], holdout: float
) -> tuple[Int[Tensor, "train"], Int[Tensor, "held_out"]]:
    """Train on the beginning, hold out the end.

    Args:
        usable: frames with a face and a good track; others are neither trained on nor scored.
        duplicate: frames that repeat the one before; not trained on twice.
        holdout: below 1 the fraction of all frames that is held out, otherwise their number; 0 holds out nothing.

    Raises:
        UserError: too few frames are left to train on.
    """
    if holdout < 0:
        raise UserError(f"--holdout {holdout:g} is negative; give a fraction below 1 or a number of frames")
    count = len(usable)
    tail = round(count * holdout) if holdout < 1 else int(holdout)
    index = torch.arange(count)
    train = index[usable & ~duplicate & (index < count - tail)]
    held_out = index[usable & (index >= count - tail)]
    if len(train) < MIN_TRAIN_FRAMES:
        raise UserError(
            f"only {len(train)} usable frames are left to train on (of {count}, {tail} held out), {MIN_TRAIN_FRAMES} are "
            "needed; give a longer video, one in which the face is seen, or a smaller --holdout"
        )
    return train, held_out
