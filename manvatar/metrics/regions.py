"""Which pixels are looked at: the whole frame, the head, the mouth, the eyes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

REGIONS = ("frame", "head", "mouth", "eyes")

# Points of the iBUG-68 scheme, and the margin around them in parts of their box's width.
_MOUTH = (range(48, 68), 0.25)
_EYES = ((range(36, 42), 0.5), (range(42, 48), 0.5))
_SMALLEST_PX = 4

Box = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom exclusive


@dataclass(frozen=True)
class Region:
    """Pixels, and boxes that hold them (one for each connected part)."""

    mask: Bool[Tensor, "height width"]
    boxes: tuple[Box, ...]


def regions(alpha: Float[Tensor, "height width"], landmarks_px: Float[Tensor, "68 2"]) -> dict[str, Region | None]:
    """The regions of one image; one that cannot be seen in it is None.

    Args:
        alpha: head matte, [0, 1]; the head is where it exceeds one half.
        landmarks_px: iBUG-68 points (x, y); points that are NaN or outside the image are not seen.
    """
    height, width = alpha.shape
    head = alpha > 0.5
    return {
        "frame": Region(torch.ones(height, width, dtype=torch.bool), ((0, 0, width, height),)),
        "head": Region(head, (_bounding_box(head),)) if bool(head.any()) else None,
        "mouth": _boxes_region([landmark_box(landmarks_px, *_MOUTH, (width, height))], (width, height)),
        "eyes": _boxes_region([landmark_box(landmarks_px, *eye, (width, height)) for eye in _EYES], (width, height)),
    }


def landmark_box(
    landmarks_px: Float[Tensor, "68 2"], part: range, margin: float, size_px: tuple[int, int]
) -> Box | None:
    """The box around some landmarks with a margin, cut at the image's border; None where it is not in the image."""
    points = landmarks_px[part.start : part.stop]
    if not bool(points.isfinite().all()):
        return None
    low, high = points.amin(0), points.amax(0)
    pad = float(high[0] - low[0]) * margin
    left, top = (low - pad).floor().clamp_min(0).int().tolist()
    right, bottom = torch.minimum((high + pad).ceil(), torch.tensor(size_px, dtype=high.dtype)).int().tolist()
    if right - left < _SMALLEST_PX or bottom - top < _SMALLEST_PX:
        return None
    return left, top, right, bottom


def _boxes_region(boxes: list[Box | None], size_px: tuple[int, int]) -> Region | None:
    seen = tuple(box for box in boxes if box is not None)
    if not seen:
        return None
    mask = torch.zeros(size_px[1], size_px[0], dtype=torch.bool)
    for left, top, right, bottom in seen:
        mask[top:bottom, left:right] = True
    return Region(mask, seen)


def _bounding_box(mask: Bool[Tensor, "height width"]) -> Box:
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
