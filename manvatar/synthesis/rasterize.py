"""A small z-buffer rasteriser in NumPy: which triangle every pixel sees, and where on it.

Triangles are handled in groups of similar size on screen, each group as one array: (triangles, window, window). That
is fast for meshes whose triangles cover a few pixels. Nothing here is differentiable.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

GROUP_ELEMENTS = 1 << 21  # largest (triangles x window x window) handled at once: bounds the memory


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
    low = np.ceil(corners.min(1) - 0.5).astype(np.int64)  # first and last pixel whose centre may be inside
    high = np.floor(corners.max(1) - 0.5).astype(np.int64)
    low, high = np.maximum(low, 0), np.minimum(high, [width - 1, height - 1])
    span = (high - low + 1).max(1)
    usable = (high >= low).all(1) & (inverse > 0).all(1)
    # One number holds inverse depth (positive floats order like their bits) and, below it, the triangle.
    nearest = np.zeros(width * height, np.int64)
    window = 1
    while usable.any():
        group = np.flatnonzero(usable & (span <= window) & (span > window // 2))
        for start in range(0, len(group), max(1, GROUP_ELEMENTS // window**2)):
            chunk = group[start : start + max(1, GROUP_ELEMENTS // window**2)]
            _draw(nearest, chunk, corners[chunk], inverse[chunk], low[chunk], window, width, height)
        if window >= max(width, height):
            break
        window *= 2
    pixel = np.flatnonzero(nearest)
    triangle = nearest[pixel] & 0xFFFFFFFF
    centre = np.stack([pixel % width + 0.5, pixel // width + 0.5], 1).astype(np.float32)
    weights, _ = _screen_weights(corners[triangle], centre[:, None])
    weighted = weights[:, 0] * inverse[triangle]
    total = weighted.sum(1)
    return Fragments(pixel, triangle, weighted / total[:, None], 1 / total)


def _draw(
    nearest: np.ndarray,
    index: np.ndarray,
    corners: np.ndarray,
    inverse: np.ndarray,
    low: np.ndarray,
    window: int,
    width: int,
    height: int,
) -> None:
    """Draw triangles that fit a window of ``window`` squared pixels starting at ``low`` into ``nearest``."""
    row, column = np.divmod(np.arange(window * window), window)
    x, y = low[:, :1] + column, low[:, 1:] + row  # (T, W)
    weights, sound = _screen_weights(corners, np.stack([x, y], -1).astype(np.float32) + np.float32(0.5))
    inside = (weights >= -1e-6).all(2) & sound[:, None] & (x < width) & (y < height)
    which, _ = np.nonzero(inside)
    value = (weights[inside] * inverse[which]).sum(1)
    bits = np.maximum(value, np.float32(1e-30)).astype(np.float32).view(np.int32).astype(np.int64)
    np.maximum.at(nearest, y[inside] * width + x[inside], (bits << 32) | index[which])


def _screen_weights(corners: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Barycentric weights on screen (T, W, 3) of points (T, W, 2), and whether the triangle has an area (T,)."""
    a, b, c = corners[:, None, 0], corners[:, None, 1], corners[:, None, 2]
    u, v, p = b - a, c - a, points - a
    area = u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]
    sound = np.abs(area) > 1e-9
    scale = 1 / np.where(sound, area, 1)
    second = (p[..., 0] * v[..., 1] - p[..., 1] * v[..., 0]) * scale
    third = (u[..., 0] * p[..., 1] - u[..., 1] * p[..., 0]) * scale
    return np.stack([1 - second - third, second, third], -1), sound[:, 0]
