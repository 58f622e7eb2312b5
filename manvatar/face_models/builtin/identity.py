"""Identity modes of the builtin head: a Gaussian process on the mean surface.

Luethi et al., "Gaussian Process Morphable Models", PAMI 2018: the deformation from the mean head to a person's is a
Gaussian process with a sum of smooth kernels of several ranges, and its leading eigenfunctions (Nystrom method) are
the modes. Faces are nearly mirror-symmetric, so the process is split: symmetric fields get the full amplitude,
antisymmetric ones a fraction. Width, height and depth of the whole head are modes of their own.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

MODE_COUNT = 80
# Range (mm) and standard deviation (mm) of each kernel; the shorter ranges act on the face only.
KERNELS = ((90.0, 3.6, False), (45.0, 2.6, False), (24.0, 1.7, True), (13.0, 0.9, True))
ASYMMETRY = 0.3  # standard deviation of antisymmetric fields, relative to the symmetric ones
STRETCH = (0.035, 0.035, 0.04)  # standard deviation of overall width, height and depth, relative
SAMPLES = 420  # on one half of the head, where the eigenfunctions are computed


def identity_modes(vertices: np.ndarray) -> np.ndarray:
    """Modes (MODE_COUNT, V, 3) in mm per standard deviation for ``vertices`` (V, 3) in mm, strongest first after
    the three stretches."""
    modes = [np.zeros_like(vertices) for _ in range(3)]
    for axis, share in enumerate(STRETCH):
        modes[axis][:, axis] = share * vertices[:, axis]
    samples = _samples(vertices)
    found: list[tuple[float, np.ndarray, int]] = []
    kernels = [(_kernel(points, samples), _kernel(points, samples * (-1, 1, 1))) for points in (samples, vertices)]
    for parity in (1, -1):
        values, functions = _eigenfunctions(*(_folded(direct, mirrored, parity) for direct, mirrored in kernels))
        for value, function in zip(values, functions, strict=True):
            for axis in range(3):
                # Under reflection x changes sign, so a symmetric field is odd in x and even in y and z.
                symmetric = (parity == -1) == (axis == 0)
                amplitude = 1.0 if symmetric else ASYMMETRY
                found.append((value * amplitude**2, amplitude * function, axis))
    found.sort(key=lambda item: -item[0])
    for _, function, axis in found[: MODE_COUNT - 3]:
        mode = np.zeros_like(vertices)
        mode[:, axis] = function
        modes.append(mode)
    return np.stack(modes)


def _eigenfunctions(among_samples: np.ndarray, to_points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leading eigenvalues and functions (N, V) of a covariance, scaled by the root of their variance.

    Args:
        among_samples: (S, S), of the samples with each other.
        to_points: (V, S), of the points that the functions are wanted at with the samples.
    """
    values, vectors = np.linalg.eigh(among_samples)
    values, vectors = values[::-1][:MODE_COUNT], vectors[:, ::-1][:, :MODE_COUNT]
    kept = values > values[0] * 1e-6
    values, vectors = values[kept], vectors[:, kept]
    # One sign on every machine: the sample that moves most moves in the positive direction.
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])])
    functions = to_points @ (vectors / np.sqrt(values))
    return values, functions.T


def _folded(direct: np.ndarray, mirrored: np.ndarray, parity: int) -> np.ndarray:
    """Covariance of the even (1) or odd (-1) part of the process: (k(a, b) + parity k(a, mirrored b)) / 2."""
    return 0.5 * (direct + parity * mirrored)


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    result = np.zeros_like(squared)
    detail = _face_weight(a)[:, None] * _face_weight(b)
    for reach, deviation, face_only in KERNELS:
        term = deviation**2 * np.exp(-0.5 * squared / reach**2)
        result += term * detail if face_only else term
    return result


def _face_weight(points: np.ndarray) -> np.ndarray:
    """1 on the face, 0 behind the ears and on the neck; mm."""
    front = np.clip((points[:, 2] + 75) / 50, 0, 1)
    above = np.clip((points[:, 1] + 150) / 30, 0, 1)
    return front**2 * (3 - 2 * front) * above


def _samples(vertices: np.ndarray) -> np.ndarray:
    """Evenly spread points of the left half, three times as dense on the face as elsewhere."""
    half = vertices[vertices[:, 0] >= -1e-6]
    scale = np.where(_face_weight(half) > 0.5, 1.0, 1.7)
    tree = cKDTree(half)
    low, high = 1.0, 40.0
    chosen = half
    for _ in range(14):  # bisect the spacing that leaves about SAMPLES points
        spacing = 0.5 * (low + high)
        free = np.ones(len(half), bool)
        picked = []
        for index in range(len(half)):
            if free[index]:
                picked.append(index)
                free[tree.query_ball_point(half[index], spacing * scale[index])] = False
        chosen = half[picked]
        low, high = (spacing, high) if len(picked) > SAMPLES else (low, spacing)
        if abs(len(picked) - SAMPLES) <= SAMPLES // 20:
            break
    return chosen
