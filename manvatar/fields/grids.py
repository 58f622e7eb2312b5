"""Sizes of node grids.

A grid holds nodes, not cells: node 0 lies on the lower bound of the box and node n-1 on the upper one, on every
level, so that all levels agree about where a point is.
"""

from __future__ import annotations

from manvatar.types import Box


def node_counts(box: Box, voxel_m: float) -> tuple[int, int, int]:
    """Nodes along (z, y, x) for voxels of about ``voxel_m`` metres."""
    extent = (box.upper_m - box.lower_m).tolist()
    x, y, z = (max(2, round(length / voxel_m) + 1) for length in extent)
    return z, y, x
