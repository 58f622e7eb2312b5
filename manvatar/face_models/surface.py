"""Triangles for a point cloud that samples a surface densely, when a file holds vertices but no connectivity.

A local Delaunay vote: each point projects its neighbours on its own tangent plane and names the triangles of the
Delaunay star around itself. A triangle named by all three of its corners is certain; the others (mostly the two
diagonals of one quad, on which corners may disagree) fill what is left in order of votes and size, as long as no edge
gets a third triangle (the localized Delaunay idea of Gopi, Krishnan and Silva 2000).
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree


def triangulate(points: np.ndarray, neighbours: int = 14) -> np.ndarray:
    """Triangles (T, 3), counter-clockwise seen from outside the closed-ish surface that ``points`` (V, 3) sample.

    One connected sheet at a time: sheets closer to each other than the sampling distance are mistaken for one.
    Open borders stay open. Roughly 2V triangles come back; a few holes of one triangle are possible.
    """
    count = min(neighbours, len(points) - 1)
    _, nearest = cKDTree(points).query(points, k=count + 1)
    stars = _stars(points, nearest[:, 1:])
    triangles, votes = np.unique(np.sort(stars, axis=1), axis=0, return_counts=True)
    corners = points[triangles]
    longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(1)
    order = np.lexsort((longest, -votes))
    kept = _manifold(triangles[order], len(points), certain=int((votes == 3).sum()))
    return _oriented(points, kept)


def _stars(points: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """Delaunay triangles at each point in its own tangent plane: (N, 3), the corner that named it first."""
    count = nearest.shape[1]
    offset = points[nearest] - points[:, None]  # (V, k, 3)
    near = offset[:, :8]  # the tangent plane comes from the closest few only: on curved ground more would tilt it
    _, vectors = np.linalg.eigh(np.einsum("vki,vkj->vij", near, near))
    plane = np.einsum("vki,vij->vkj", offset, vectors[:, :, 1:])
    # Keep true distances from the centre, so that the star of a curved patch is not foreshortened.
    length = np.linalg.norm(plane, axis=2, keepdims=True)
    plane *= np.linalg.norm(offset, axis=2, keepdims=True) / np.maximum(length, 1e-12)
    first, second = np.triu_indices(count, 1)
    a, b = plane[:, first], plane[:, second]
    cross = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    scale = (plane**2).sum(2).mean(1)[:, None]
    flat = np.abs(cross) < 1e-3 * scale
    denominator = 2 * np.where(flat, 1, cross)
    aa, bb = (a**2).sum(2), (b**2).sum(2)
    center = np.stack([b[..., 1] * aa - a[..., 1] * bb, a[..., 0] * bb - b[..., 0] * aa], -1) / denominator[..., None]
    # A neighbour p is inside the circle through the origin, a and b exactly when |p|^2 < 2 p.center.
    inside = (plane**2).sum(2)[:, None] < 2 * np.einsum("vki,vpi->vpk", plane, center) - 1e-9 * scale[..., None]
    pair = np.arange(len(first))
    inside[:, pair, first] = False
    inside[:, pair, second] = False
    vertex, chosen = np.nonzero(~flat & ~inside.any(2))
    return np.stack([vertex, nearest[vertex, first[chosen]], nearest[vertex, second[chosen]]], 1)


def _manifold(triangles: np.ndarray, point_count: int, certain: int) -> np.ndarray:
    """The triangles, taken in order, that give no edge a third triangle."""
    edges = np.stack([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [0, 2]]], 1)
    keys = (edges[..., 0].astype(np.int64) * point_count + edges[..., 1]).tolist()
    used: dict[int, int] = {}
    kept: list[int] = []
    waiting = range(len(keys))
    # Certain triangles first. A doubtful one must close a gap, so it has to hang on by two edges; then by one.
    for needed in (0, 2, 2, 1, 2):
        rest = []
        for index in waiting:
            triple = keys[index]
            free = all(used.get(edge, 0) < 2 for edge in triple)
            if free and (index < certain if needed == 0 else sum(edge in used for edge in triple) >= needed):
                for edge in triple:
                    used[edge] = used.get(edge, 0) + 1
                kept.append(index)
            else:
                rest.append(index)
        waiting = rest
    return triangles[kept]


def _oriented(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Wind the triangles of every connected piece alike, and outwards where the piece is seen from its centre."""
    result = triangles.copy()
    by_edge: dict[tuple[int, int], list[int]] = {}
    for index, (a, b, c) in enumerate(triangles.tolist()):
        for edge in ((a, b), (b, c), (a, c)):
            by_edge.setdefault(edge, []).append(index)
    done = np.zeros(len(triangles), bool)
    for seed in range(len(triangles)):
        if done[seed]:
            continue
        done[seed] = True
        piece = [seed]
        for current in piece:
            a, b, c = result[current].tolist()
            for start, end in ((a, b), (b, c), (c, a)):
                for other in by_edge[min(start, end), max(start, end)]:
                    if not done[other]:
                        done[other] = True
                        x, y, z = result[other].tolist()
                        if (start, end) in ((x, y), (y, z), (z, x)):  # a shared edge must run the other way round
                            result[other] = (x, z, y)
                        piece.append(other)
        corners = points[result[piece]]
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        # The divergence theorem about the piece's own centre: positive volume means outward winding.
        if (normal * (corners.mean(1) - corners.reshape(-1, 3).mean(0))).sum() < 0:
            result[piece] = result[piece][:, ::-1]
    return result
