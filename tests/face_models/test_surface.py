"""Triangles for point clouds."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from manvatar.face_models.surface import triangulate


def _edges(triangles: np.ndarray) -> Counter:
    pairs = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [0, 2]]]), axis=1)
    return Counter(map(tuple, pairs.tolist()))


def _directed(triangles: np.ndarray) -> Counter:
    return Counter(
        map(tuple, np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]).tolist())
    )


def test_flat_patch_is_covered_once() -> None:
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.arange(15.0), np.arange(12.0))
    inside = ((x > 0) & (x < 14) & (y > 0) & (y < 11)).reshape(-1, 1)
    points = np.stack([x, y, 0 * x], -1).reshape(-1, 3) + rng.uniform(-0.25, 0.25, (180, 3)) * (1, 1, 0) * inside
    triangles = triangulate(points)
    a, b, c = (points[triangles[:, k]] for k in range(3))
    area = 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1).sum()
    assert area == pytest.approx(14 * 11, rel=1e-6)
    assert max(_edges(triangles).values()) == 2


def test_sphere_is_closed_and_faces_outwards() -> None:
    count = 900  # a Fibonacci sphere
    k = np.arange(count) + 0.5
    polar, azimuth = np.arccos(1 - 2 * k / count), np.pi * (1 + 5**0.5) * k
    points = np.stack([np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)], 1)
    triangles = triangulate(points)
    assert len(triangles) == 2 * count - 4  # Euler
    assert set(_edges(triangles).values()) == {2}
    assert set(_directed(triangles).values()) == {1}  # neighbours are wound alike
    a, b, c = (points[triangles[:, k]] for k in range(3))
    assert ((np.cross(b - a, c - a) * (a + b + c)).sum(1) > 0).all()


def test_two_sheets_apart_stay_apart() -> None:
    x, y = np.meshgrid(np.arange(10.0), np.arange(10.0))
    sheet = np.stack([x, y, 0 * x], -1).reshape(-1, 3)
    points = np.concatenate([sheet, sheet + (0, 0, 5)])
    triangles = triangulate(points)
    assert ((triangles < 100).all(1) | (triangles >= 100).all(1)).all()
