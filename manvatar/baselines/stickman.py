"""Landmarks as pictures: coloured polylines on black, which the 2D models take beside an image.

Two drawings are in use, and networks know only their own: ``bilayer`` and ``fewshot``. Both are 2 pixels wide without
anti-aliasing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Drawing = Literal["bilayer", "fewshot"]
KEYPOINTS = 68
_WIDTH_PX = 2
_WHITE, _RED, _GREEN, _BLUE = (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255)
_MAGENTA, _CYAN, _YELLOW = (255, 0, 255), (0, 255, 255), (255, 255, 0)


@dataclass(frozen=True)
class _Line:
    points: tuple[int, ...]
    color: tuple[int, int, int]


def _open(first: int, last: int, color: tuple[int, int, int]) -> _Line:
    return _Line(tuple(range(first, last + 1)), color)


def _closed(first: int, last: int, color: tuple[int, int, int]) -> _Line:
    return _Line((*range(first, last + 1), first), color)


_JAW, _RIGHT_BROW, _LEFT_BROW = _open(0, 16, _WHITE), _open(17, 21, _RED), _open(22, 26, _GREEN)
_RIGHT_EYE, _LEFT_EYE = _closed(36, 41, _MAGENTA), _closed(42, 47, _CYAN)
_OUTER_LIPS, _INNER_LIPS = _closed(48, 59, _YELLOW), _closed(60, 67, _YELLOW)
_BRIDGE, _BRIDGE_TO_TIP, _NOSE_BASE = _open(27, 30, _BLUE), _Line((27, 28, 29, 30, 33), _BLUE), _open(31, 35, _BLUE)
_LINES: dict[Drawing, tuple[_Line, ...]] = {
    "bilayer": (
        *(_JAW, _RIGHT_BROW, _LEFT_BROW, _BRIDGE_TO_TIP, _NOSE_BASE, _RIGHT_EYE, _LEFT_EYE, _OUTER_LIPS, _INNER_LIPS),
    ),
    "fewshot": (_JAW, _RIGHT_BROW, _LEFT_BROW, _BRIDGE, _NOSE_BASE, _RIGHT_EYE, _LEFT_EYE, _OUTER_LIPS),
}
_BACKGROUND: dict[Drawing, int] = {"bilayer": 1, "fewshot": 0}  # the bi-layer weights were trained on 1, not 0


def draw_stickman(
    keypoints: Float[Tensor, "images coordinates"], size_px: int = 256, drawing: Drawing = "bilayer"
) -> Float[Tensor, "images 3 size size"]:
    """Draw landmarks; not differentiable.

    Args:
        keypoints: x0, y0, ..., x67, y67 of the iBUG points, -1 and 1 on the borders of the image; may lie outside.
            Further points become white dots.
        drawing: ``bilayer`` truncates coordinates to whole pixels, ``fewshot`` rounds them.

    Returns:
        RGB in [-1, 1], float32, on the device of ``keypoints``.
    """
    points = (keypoints.detach().reshape(len(keypoints), -1, 2).double().cpu().numpy() + 1) / 2 * size_px
    points = np.trunc(points) if drawing == "bilayer" else np.rint(points)
    drawn = torch.from_numpy(np.stack([_draw_one(each, size_px, drawing) for each in points]))
    return drawn.permute(0, 3, 1, 2).to(keypoints.device).float() / 255 * 2 - 1


def _draw_one(points: np.ndarray, size_px: int, drawing: Drawing) -> np.ndarray:
    image = np.full((size_px, size_px, 3), _BACKGROUND[drawing], np.uint8)
    for line in _LINES[drawing]:
        for start, end in zip(line.points, line.points[1:], strict=False):
            _draw_segment(image, points[start], points[end], line.color)
    for point in points[KEYPOINTS:]:
        _draw_segment(image, point, point, _WHITE)
    return image


def _draw_segment(image: np.ndarray, start: np.ndarray, end: np.ndarray, color: tuple[int, int, int]) -> None:
    """Colour a segment with round ends, and half a pixel around it along the axis in which it is steeper.

    So do polygons drawn with their outline: 93 % of the pixels are those of OpenCV 5's lines of thickness 2, which
    drew what the released networks have seen; the rest lies along the edges.
    """
    if not (np.isfinite(start).all() and np.isfinite(end).all()):
        return
    half, size_px = _WIDTH_PX / 2, len(image)
    low = np.maximum(np.minimum(start, end) - 2 * half, 0).astype(int)
    high = np.minimum(np.maximum(start, end) + 2 * half, size_px - 1).astype(int)
    if (low > high).any():
        return
    y, x = np.mgrid[low[1] : high[1] + 1, low[0] : high[0] + 1]
    first, last = ((x - point[0]) ** 2 + (y - point[1]) ** 2 for point in (start, end))
    inside = np.minimum(first, last) <= half**2
    length = float(np.hypot(*(end - start)))
    if length:
        along = (end - start) / length
        around = 0.5 * np.abs(along).max()
        u = (x - start[0]) * along[0] + (y - start[1]) * along[1]
        v = (x - start[0]) * along[1] - (y - start[1]) * along[0]
        inside |= (np.abs(v) < half + around - 1e-9) & (u > -around) & (u < length + around)
    image[low[1] : high[1] + 1, low[0] : high[0] + 1][inside] = color
