"""Smooth random functions of position, the same for the same seed everywhere."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

import numpy as np
from scipy.ndimage import map_coordinates

Number: TypeAlias = float | int
_LATTICE = 32


@lru_cache(maxsize=64)
def _lattice(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((_LATTICE,) * 3).astype(np.float32)


def smooth_noise(points: np.ndarray, size: Number | tuple[Number, Number, Number], seed: int) -> np.ndarray:
    """Zero-mean noise (N,) at ``points`` (N, 3), of about unit variance at its lattice; features are ``size`` wide.

    It repeats after 32 sizes. Three sizes make it anisotropic.
    """
    place = (points / np.asarray(size)).T
    return map_coordinates(_lattice(seed), place, order=1, mode="grid-wrap") * 1.6


def layered_noise(points: np.ndarray, size: Number, seed: int, octaves: int = 4) -> np.ndarray:
    """Noise with detail at ``size`` and halves of it, each half as strong."""
    return sum(0.5**k * smooth_noise(points + 17.3 * k, size * 0.5**k, seed + k) for k in range(octaves))


def spots(points: np.ndarray, cell: Number, radius: tuple[Number, Number], share: Number, seed: int) -> np.ndarray:
    """Soft round spots (N,) in [0, 1]: at most one in each cubic cell of the given size, in a ``share`` of the cells.

    Each lies in the middle part of its cell, so that only that cell needs to be looked at.
    """
    index = np.floor(points / cell).astype(np.int64)
    key = (index * np.array([73856093, 19349663, 83492791])).sum(1) % 65521
    random = np.random.default_rng(seed).random((65521, 5)).astype(np.float32)[key]
    size = radius[0] + (radius[1] - radius[0]) * random[:, 3]
    centre = (index + 0.3 + 0.4 * random[:, :3]) * cell
    distance = np.linalg.norm(points - centre, axis=1)
    return np.clip(1.5 - distance / size, 0, 1) * (random[:, 4] < share)
