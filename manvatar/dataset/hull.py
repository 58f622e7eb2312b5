"""What the mattes alone say about where the head can be."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from manvatar.geometry import project, transform
from manvatar.types import Camera, Dataset


def hull_votes(
    points_m: Float[Tensor, "points 3"],
    alphas: Float[Tensor, "frames height width"],
    camera: Camera,
    cam_from_head: Float[Tensor, "frames 4 4"],
) -> Float[Tensor, "points"]:
    """For each point of the head frame, the part of the frames in which it projects onto the matte.

    A point outside an image is not counted for or against; one that no image shows gets 0.
    """
    width, height = camera.size_px
    seen = torch.zeros(len(points_m))
    inside = torch.zeros(len(points_m))
    for alpha, pose in zip(alphas, cam_from_head, strict=True):
        pixels = project(camera, transform(pose, points_m))
        column, row = pixels.floor().long().unbind(-1)
        visible = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        value = alpha[row.clamp(0, height - 1), column.clamp(0, width - 1)]
        seen += visible.float()
        inside += visible.float() * (value > 0.05).float()
    return inside / seen.clamp_min(1)


def visual_hull(
    dataset: Dataset, points_m: Float[Tensor, "points 3"], frames: int = 32, agreement: float = 0.9
) -> Bool[Tensor, "points"]:
    """Which points of the head frame at least ``agreement`` of ``frames`` training frames allow.

    Hair and neck do not move rigidly with the head and mattes err, so one vote against is no proof; mattes are
    widened by a few pixels for the same reason.
    """
    rows = dataset.train[torch.linspace(0, len(dataset.train) - 1, min(frames, len(dataset.train))).long()]
    alphas = widened(torch.stack([dataset.images[row, :, :, 3] for row in rows.tolist()]).float() / 255)
    votes = hull_votes(points_m, alphas, dataset.camera, dataset.cam_from_head[rows])
    return votes >= agreement


def widened(alphas: Float[Tensor, "frames height width"]) -> Float[Tensor, "frames height width"]:
    """Mattes dilated by about 1.5 % of their width."""
    radius = max(1, round(alphas.shape[-1] * 0.015))
    return torch.nn.functional.max_pool2d(alphas[:, None], 2 * radius + 1, 1, radius)[:, 0]
