"""A tour of what an avatar can do: each expression in turn, while the head turns."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from manvatar.avatars import Avatar, turned
from manvatar.face_models.channels import readable


@dataclass(frozen=True)
class Sweep:
    """Frames of a tour, and what is written on each."""

    expression: Float[Tensor, "frames expression"]  # standard deviations
    cam_from_head: Float[Tensor, "frames 4 4"]
    labels: tuple[str, ...]


def sweep(
    avatar: Avatar,
    frames_per_expression: int = 12,
    yaw_rad: float = math.radians(20),
    pitch_rad: float = math.radians(8),
    frames_per_turn: int = 60,
) -> Sweep:
    """Every coefficient from rest to the highest value seen in training, to the lowest, and back; one after another.

    Meanwhile the head turns about its default pose, up to ``yaw_rad`` to each side and ``pitch_rad`` up and down. The
    two have periods that do not fit each other, so that all combinations come about.

    Args:
        frames_per_expression: a multiple of 4, so that both ends are reached in a frame of their own.
        frames_per_turn: frames from left to right and back.
    """
    if frames_per_expression < 4 or frames_per_expression % 4:
        raise ValueError(f"sweep: frames_per_expression must be a multiple of 4, got {frames_per_expression}")
    rest = avatar.neutral
    lower, upper = avatar.expression_range
    part = torch.arange(frames_per_expression) / frames_per_expression
    rows, labels = [], []
    for index, name in enumerate(avatar.expression_names):
        start, top, bottom = rest[index], upper[index], lower[index]
        up = start + _eased(part * 4) * (top - start)
        down = top + _eased((part - 0.25) * 2) * (bottom - top)
        back = bottom + _eased((part - 0.75) * 4) * (start - bottom)
        value = torch.where(part < 0.25, up, torch.where(part < 0.75, down, back))
        expression = rest.repeat(frames_per_expression, 1)
        expression[:, index] = value
        rows.append(expression)
        labels += [f"{name}\n{readable(name, v)}" for v in value.tolist()]
    time = torch.arange(len(labels)) / frames_per_turn * 2 * math.pi
    poses = avatar.head_pose.expand(len(labels), 4, 4)
    poses = turned(poses, yaw_rad * time.sin(), pitch_rad * (time * math.sqrt(2)).sin())
    return Sweep(torch.cat(rows), poses, tuple(labels))


def _eased(part: Float[Tensor, "frames"]) -> Float[Tensor, "frames"]:
    """From 0 at 0 to 1 at 1, without a jerk at either end; constant beyond."""
    return (1 - (part.clamp(0, 1) * math.pi).cos()) / 2
