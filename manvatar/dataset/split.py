"""Which frames are trained on and which are only looked at in the end."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from manvatar.errors import UserError
from manvatar.geometry import vector_from_rotation

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


def split_extreme(
    usable: Bool[Tensor, "frames"],
    duplicate: Bool[Tensor, "frames"],
    cam_from_head: Float[Tensor, "frames 4 4"],
    holdout: float,
) -> tuple[Int[Tensor, "train"], Int[Tensor, "held_out"]]:
    """Train on the poses near the clip's mean, hold out those that are turned furthest from it.

    What an avatar makes of poses it has never seen tells more about its camera and its track than the end of a clip,
    whose poses may all have come before.

    Args:
        usable, duplicate, holdout: as in :func:`split_tail`.
        cam_from_head: pose of every frame; only its rotation counts.

    Raises:
        UserError: ``holdout`` is impossible, or too few frames are left to train on.
    """
    count = len(usable)
    number = tail_length(count, holdout)
    rotation = cam_from_head[:, :3, :3].double()
    angle = vector_from_rotation(rotation @ _mean_rotation(rotation[usable]).T).norm(dim=1)
    furthest = torch.where(usable, angle, -1.0).topk(min(number, int(usable.sum()))).indices
    extreme = torch.zeros(count, dtype=torch.bool).index_fill(0, furthest, True)
    train = torch.nonzero(usable & ~duplicate & ~extreme)[:, 0]
    _require_enough(len(train), count, number)
    return train, torch.nonzero(extreme)[:, 0]


def _mean_rotation(rotation: Float[Tensor, "frames 3 3"]) -> Float[Tensor, "3 3"]:
    """The rotation nearest to the mean matrix (Moakher 2002, section 3.2)."""
    if len(rotation) == 0:
        return torch.eye(3, dtype=rotation.dtype)
    left, _, right = torch.linalg.svd(rotation.mean(0))
    sign = torch.tensor([1.0, 1.0, float(torch.sign(torch.det(left @ right)))], dtype=rotation.dtype)
    return left @ torch.diag(sign) @ right


def _require_enough(left: int, count: int, tail: int) -> None:
    if left < MIN_TRAIN_FRAMES:
        raise UserError(
            f"only {left} usable frames are left to train on (of {count}, {tail} held out), {MIN_TRAIN_FRAMES} are "
            "needed; give a longer video, one in which the face is seen, or a smaller --holdout"
        )
