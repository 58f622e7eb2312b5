"""What mattes and the tracked face say about where the head can be, before anything is trained."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt, gaussian_filter
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


def depth_behind_surface(
    points_m: Float[Tensor, "points 3"], surface_m: Float[Tensor, "vertices 3"], bin_m: float = 0.006
) -> Float[Tensor, "points"]:
    """How far behind the front of the tracked face points lie, along -z of the head; negative in front of it.

    The front is the largest z of the vertices in each bin of (x, y). Bins without one, where hair is, take that of the
    nearest bin that has one: hair lies around the outline of the skull.
    """
    low, high = points_m[:, :2].amin(0), points_m[:, :2].amax(0)
    bins = ((high - low) / bin_m).long() + 1
    columns, rows = int(bins[0]), int(bins[1])
    cell = ((surface_m[:, :2] - low) / bin_m).floor().long()
    inside = ((cell >= 0) & (cell < bins)).all(-1)
    flat = cell[inside, 1] * columns + cell[inside, 0]
    front = torch.full((rows * columns,), -torch.inf)
    front = front.scatter_reduce(0, flat, surface_m[inside, 2], "amax").view(rows, columns).numpy()
    _, (row, column) = distance_transform_edt(front == -np.inf, return_indices=True)
    smooth = torch.from_numpy(gaussian_filter(front[row, column], 1.0))
    at = ((points_m[:, :2] - low) / bin_m).floor().long()
    return smooth[at[:, 1].clamp(0, rows - 1), at[:, 0].clamp(0, columns - 1)] - points_m[:, 2]
