"""Clips with a real face in known places: the astronaut of scikit-image, moved and scaled over a plain background."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

from manvatar.types import Clip
from manvatar.video import open_clip, writer

# Distance of the outer eye corners, and their midpoint, in the astronaut image.
EYE_DISTANCE_PX, EYE_CENTER_PX = 62.0, (225.8, 102.6)


def astronaut() -> np.ndarray:
    """(512, 512, 3) uint8, with one face."""
    return skimage.data.astronaut()


def placed(canvas: np.ndarray, scale: float, center_px: tuple[float, float]) -> None:
    """Draw the head of the astronaut onto ``canvas``, scaled, with the eyes' midpoint at ``center_px``."""
    head = Image.fromarray(astronaut()[0:230, 100:350])
    size = max(2, round(250 * scale)), max(2, round(230 * scale))
    small = np.array(head.resize(size, Image.Resampling.LANCZOS))
    left = round(center_px[0] - (EYE_CENTER_PX[0] - 100) * size[0] / 250)
    top = round(center_px[1] - EYE_CENTER_PX[1] * size[1] / 230)
    height, width = canvas.shape[:2]
    y0, y1, x0, x1 = max(top, 0), min(top + size[1], height), max(left, 0), min(left + size[0], width)
    if y1 > y0 and x1 > x0:
        canvas[y0:y1, x0:x1] = small[y0 - top : y1 - top, x0 - left : x1 - left]


def face_clip(
    path: Path, faces: list[list[tuple[float, tuple[float, float]]]], size_px: tuple[int, int] = (480, 360)
) -> Clip:
    """A clip with, in each frame, the given faces as (scale, centre)."""
    with writer(path, 25.0, size_px, synthetic=True, quality=14) as video:
        for here in faces:
            canvas = np.full((size_px[1], size_px[0], 3), (120, 130, 140), np.uint8)
            for scale, center in here:
                placed(canvas, scale, center)
            video.write(canvas)
    return open_clip(path)
