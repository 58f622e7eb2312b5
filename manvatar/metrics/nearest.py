"""The rival every avatar must beat: show the training frame that is nearest in pose and expression."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from manvatar.geometry import vector_from_rotation
from manvatar.metrics.images import white_composite
from manvatar.types import Dataset


def nearest_frame(dataset: Dataset) -> Int[Tensor, "held_out"]:
    """For each held-out frame, the row of the training frame nearest to it.

    The squared distance is the sum of three: rotation angle, translation and expression vector, each divided by its
    own spread over the training frames (the rms distance from their mean), so that none of them outweighs the others
    by its unit alone.
    """
    train, held_out = dataset.train, dataset.held_out
    total = torch.zeros(len(held_out), len(train), dtype=torch.float64)
    for value in (
        _angles_squared(dataset.cam_from_head[held_out], dataset.cam_from_head[train]),
        _squared(dataset.cam_from_head[held_out, :3, 3], dataset.cam_from_head[train, :3, 3]),
        _squared(dataset.expression[held_out], dataset.expression[train]),
    ):
        distances, spread = value
        if spread > 1e-12:  # what never changes in training says nothing
            total += distances / spread
    return train[total.argmin(1)]


def nearest_frame_renderer(dataset: Dataset) -> Callable[[int], Float[Tensor, "height width 3"]]:
    """Shows for each held-out row its nearest training frame, on white, as it is."""
    choice = dict(zip(dataset.held_out.tolist(), nearest_frame(dataset).tolist(), strict=True))
    return lambda row: white_composite(dataset.images[choice[row]])


def _squared(a: Float[Tensor, "a dims"], b: Float[Tensor, "b dims"]) -> tuple[Float[Tensor, "a b"], float]:
    a, b = a.double(), b.double()
    spread = float((b - b.mean(0)).square().sum(-1).mean())
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square(), spread


def _angles_squared(a: Float[Tensor, "a 4 4"], b: Float[Tensor, "b 4 4"]) -> tuple[Float[Tensor, "a b"], float]:
    a, b = a[:, :3, :3].double(), b[:, :3, :3].double()
    # The angle between two rotations from the trace of one against the other.
    cosine = (torch.einsum("aij,bij->ab", a, b) - 1) / 2
    angles = cosine.clamp(-1, 1).arccos()
    u, _, vh = torch.linalg.svd(b.mean(0))
    spread = float(vector_from_rotation((u @ vh).T @ b).square().sum(-1).mean())
    return angles.square(), spread
