"""The rasteriser against one that loops over every pixel and triangle."""

from __future__ import annotations

import numpy as np
import pytest

from manvatar.synthesis.rasterize import rasterize


def _reference(points: np.ndarray, depth: np.ndarray, triangles: np.ndarray, size: tuple[int, int]) -> dict:
    """pixel -> (triangle, depth), in double and by loops."""
    width, height = size
    result: dict[int, tuple[int, float]] = {}
    for row in range(height):
        for column in range(width):
            for index, corners in enumerate(triangles):
                if (depth[corners] <= 0).any():
                    continue
                matrix = np.vstack([points[corners].T, np.ones(3)])
                if abs(np.linalg.det(matrix)) < 1e-9:
                    continue
                weights = np.linalg.solve(matrix, [column + 0.5, row + 0.5, 1])
                if weights.min() < 0:
                    continue
                z = 1 / (weights @ (1 / depth[corners]))
                if z < result.get(row * width + column, (0, np.inf))[1]:
                    result[row * width + column] = (index, z)
    return result


@pytest.mark.parametrize("seed", range(3))
def test_same_as_the_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points, depth = rng.uniform(-6, 30, (24, 2)), rng.uniform(-0.3, 3, 24)
    triangles = np.array([rng.choice(24, 3, replace=False) for _ in range(14)])
    triangles[0, 1] = triangles[0, 0]  # no area
    seen = rasterize(points, depth, triangles, (24, 18))
    expected = _reference(points, depth, triangles, (24, 18))
    found = dict(zip(seen.pixel.tolist(), zip(seen.triangle.tolist(), seen.depth_m.tolist(), strict=True), strict=True))
    # Single precision may decide otherwise exactly on an edge.
    assert len(set(found) ^ set(expected)) <= 1
    same = [found[k][0] == expected[k][0] for k in found if k in expected]
    assert np.mean(same) > 0.99
    for pixel in set(found) & set(expected):
        if found[pixel][0] == expected[pixel][0]:
            assert found[pixel][1] == pytest.approx(expected[pixel][1], rel=1e-4)


def test_barycentric_weights_are_perspective_correct() -> None:
    corners = np.array([[-1.0, -1, 2], [1.5, -0.5, 4], [0, 1.2, 3]])
    pixels = corners[:, :2] / corners[:, 2:] * 60 + 32
    seen = rasterize(pixels, corners[:, 2], np.array([[0, 1, 2]]), (64, 64))
    points = seen.barycentric @ corners
    projected = points[:, :2] / points[:, 2:] * 60 + 32
    centres = np.stack([seen.pixel % 64 + 0.5, seen.pixel // 64 + 0.5], 1)
    assert len(seen.pixel) > 300
    assert np.abs(projected - centres).max() < 1e-3
    assert np.allclose(points[:, 2], seen.depth_m, rtol=1e-4)


def test_neighbouring_triangles_leave_no_gap_and_a_big_one_is_drawn_whole() -> None:
    grid = np.stack(np.meshgrid(np.linspace(0, 50, 9), np.linspace(0, 40, 9)), -1).reshape(-1, 2)
    index = np.arange(81).reshape(9, 9)
    a, b, c, d = index[:-1, :-1].ravel(), index[:-1, 1:].ravel(), index[1:, :-1].ravel(), index[1:, 1:].ravel()
    triangles = np.concatenate([np.stack([a, b, c], 1), np.stack([b, d, c], 1)])
    assert len(rasterize(grid, np.ones(81), triangles, (50, 40)).pixel) == 2000
    huge = np.array([[-5000.0, -5000], [9000, -5000], [0, 9000]])
    assert len(rasterize(huge, np.ones(3), np.array([[0, 1, 2]]), (50, 40)).pixel) == 2000


def test_nothing_to_see() -> None:
    triangles = np.array([[0, 1, 2]])
    points = np.array([[1.0, 1], [5, 1], [1, 5]])
    assert len(rasterize(points, -np.ones(3), triangles, (8, 8)).pixel) == 0  # behind the camera
    assert len(rasterize(points + 100, np.ones(3), triangles, (8, 8)).pixel) == 0  # beside the picture
    assert len(rasterize(points, np.ones(3), triangles[:0], (8, 8)).pixel) == 0
