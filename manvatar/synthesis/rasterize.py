"""A small z-buffer rasteriser in NumPy: which triangle every pixel sees, and where on it.

Triangles are handled in groups of similar size on screen, each group as one array: (triangles, high, wide). That
is fast for meshes whose triangles cover a few pixels. Nothing here is differentiable.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

GROUP_ELEMENTS = 1 << 19  # largest (triangles x window) handled at once: bounds the memory, and stays in the cache
WINDOWS = np.array([1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 24, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192])


@dataclass(frozen=True)
class Fragments:
    """What is visible: one entry for every covered pixel, in row-major order of the pixels."""

    pixel: np.ndarray  # (N,) row * width + column
    triangle: np.ndarray  # (N,)
    barycentric: np.ndarray  # (N, 3), perspective correct
    depth_m: np.ndarray  # (N,) along the optical axis


def rasterize(points_px: np.ndarray, depth_m: np.ndarray, triangles: np.ndarray, size_px: tuple[int, int]) -> Fragments:
    """The nearest triangle at the centre of every pixel; both sides of a triangle are seen.

    Args:
        points_px: (V, 2) image positions (x, y), pixel centres at half-integers.
        depth_m: (V,) distance along the optical axis. A triangle with a corner at depth <= 0 is left out.
        triangles: (T, 3) vertex indices.
        size_px: (width, height).
    """
    width, height = size_px
    corners = points_px[triangles].astype(np.float32)  # (T, 3, 2)
    inverse = (1.0 / np.where(depth_m > 0, depth_m, np.inf)).astype(np.float32)[triangles]  # (T, 3), 0 = unusable
    low = np.maximum(np.ceil(corners.min(1) - 0.5), 0).astype(
        np.int64
    )  # first and last pixel centre that may be inside
    high = np.minimum(np.floor(corners.max(1) - 0.5), [width - 1, height - 1]).astype(np.int64)
    span = high - low + 1
    frame = _affine(corners)
    usable = (span > 0).all(1) & (inverse > 0).all(1) & frame.sound
    # One number holds inverse depth (positive floats order like their bits) and, below it, the triangle.
    nearest = np.zeros(width * height, np.int64)
    wide, high_class = (np.searchsorted(WINDOWS, span[:, axis]) for axis in (0, 1))
    kind = np.where(usable, wide * len(WINDOWS) + high_class, -1)
    order = np.argsort(kind, kind="stable")
    kinds, starts = np.unique(kind[order], return_index=True)
    for k, start, stop in zip(kinds, starts, np.append(starts[1:], len(order)), strict=False):
        if k < 0:
            continue
        window = (int(WINDOWS[k // len(WINDOWS)]), int(WINDOWS[k % len(WINDOWS)]))
        step = max(1, GROUP_ELEMENTS // (window[0] * window[1]))
        for first in range(start, stop, step):
            chunk = order[first : min(first + step, stop)]
            _draw(nearest, chunk, frame, inverse, low, high, window, width)
    pixel = np.flatnonzero(nearest)
    triangle = nearest[pixel] & 0xFFFFFFFF
    x, y = (pixel % width + 0.5).astype(np.float32), (pixel // width + 0.5).astype(np.float32)
    weights = frame.weights(triangle, x, y)
    weighted = weights * inverse[triangle]
    total = weighted.sum(1)
    return Fragments(pixel, triangle, weighted / total[:, None], 1 / total)


@dataclass(frozen=True)
class _Affine:
    """Barycentric weights on screen as affine functions: the second is s . (x - ax, y - ay), the third t . (...)."""

    origin: np.ndarray  # (T, 2)
    second: np.ndarray  # (T, 2)
    third: np.ndarray  # (T, 2)
    sound: np.ndarray  # (T,) False: no area

    def weights(self, triangle: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(N, 3) of the points (x, y) in the triangles (N,)."""
        dx, dy = x - self.origin[triangle, 0], y - self.origin[triangle, 1]
        second = self.second[triangle, 0] * dx + self.second[triangle, 1] * dy
        third = self.third[triangle, 0] * dx + self.third[triangle, 1] * dy
        return np.stack([1 - second - third, second, third], 1)


def _affine(corners: np.ndarray) -> _Affine:
    u, v = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    sound = np.abs(area) > 1e-9
    scale = (1 / np.where(sound, area, 1))[:, None]
    second, third = np.stack([v[:, 1], -v[:, 0]], 1) * scale, np.stack([-u[:, 1], u[:, 0]], 1) * scale
    return _Affine(corners[:, 0], second, third, sound)


def _draw(
    nearest: np.ndarray,
    index: np.ndarray,
    frame: _Affine,
    inverse: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    window: tuple[int, int],
    width: int,
) -> None:
    """Draw triangles whose boxes fit a window (wide, high) of pixels starting at ``low`` into ``nearest``."""
    column, row = np.arange(window[0]), np.arange(window[1])
    x, y = low[index, :1] + column, low[index, 1:] + row  # (T, wide), (T, high)
    dx = (x + np.float32(0.5) - frame.origin[index, :1]).astype(np.float32)
    dy = (y + np.float32(0.5) - frame.origin[index, 1:]).astype(np.float32)
    second = (frame.second[index, 1:] * dy)[:, :, None] + (frame.second[index, :1] * dx)[:, None]
    third = (frame.third[index, 1:] * dy)[:, :, None] + (frame.third[index, :1] * dx)[:, None]
    first = 1 - second - third
    inside = np.minimum(np.minimum(first, second), third) >= -1e-6
    inside &= (x <= high[index, :1])[:, None] & (y <= high[index, 1:])[:, :, None]
    which, j, i = np.nonzero(inside)
    corner = inverse[index[which]]
    value = first[inside] * corner[:, 0] + second[inside] * corner[:, 1] + third[inside] * corner[:, 2]
    bits = np.maximum(value, np.float32(1e-30)).view(np.int32).astype(np.int64)
    np.maximum.at(nearest, y[which, j] * width + x[which, i], (bits << 32) | index[which])
