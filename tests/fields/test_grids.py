"""Sizes of node grids."""

from __future__ import annotations

import torch

from manvatar.fields.grids import node_counts
from manvatar.types import Box


def test_nodes_lie_on_both_bounds() -> None:
    box = Box(torch.tensor([0.0, -0.1, 0.2]), torch.tensor([0.05, 0.1, 0.3]))
    assert node_counts(box, 0.01) == (11, 21, 6)  # z, y, x
    assert node_counts(box, 0.03) == (4, 8, 3)  # the nearest whole number of voxels


def test_at_least_one_voxel() -> None:
    box = Box(torch.zeros(3), torch.full((3,), 0.01))
    assert node_counts(box, 1.0) == (2, 2, 2)
