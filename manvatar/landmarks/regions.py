"""Square, rotated regions of an image: cutting them out and carrying points back."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Region:
    """A square of side ``size_px`` around (x, y), turned clockwise (y down) by ``angle_rad``."""

    x: float
    y: float
    size_px: float
    angle_rad: float = 0.0

    def basis(self) -> tuple[np.ndarray, np.ndarray]:
        """Directions of the region's own x and y axes in the image, in pixels per region side."""
        cosine, sine = math.cos(self.angle_rad) * self.size_px, math.sin(self.angle_rad) * self.size_px
        right, down = np.array([cosine, sine]), np.array([-sine, cosine])
        return right, down

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """(..., 2) positions in the region, 0..1 from corner to corner, as image pixels."""
        right, down = self.basis()
        return np.array([self.x, self.y]) + (points[..., :1] - 0.5) * right + (points[..., 1:2] - 0.5) * down

    def shifted_as_mediapipe(self, output_px: int) -> Region:
        """Where MediaPipe's CPU build really samples this region: it takes pixel corners for pixel centres, in the
        image and in the network's input alike, and so is off by half of the difference of the two pixel sizes.
        """
        right, down = self.basis()
        x, y = 0.5 - 0.5 * (right + down) / output_px
        return replace(self, x=self.x + float(x), y=self.y + float(y))


def cut(image: Tensor, region: Region, output_px: int) -> np.ndarray:
    """Resample ``region`` of an image bilinearly to ``output_px`` square pixels; outside the image it is black.

    Args:
        image: (height, width, 3) uint8.
        region: where; its corners are the outer corners of the result's corner pixels.
        output_px: side of the result.

    Returns:
        (output_px, output_px, 3) float32 in [0, 1].
    """
    height, width = image.shape[:2]
    corners = region.to_image(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    left, top = np.maximum(np.floor(corners.min(0)) - 1, 0).astype(int)
    right, bottom = np.minimum(np.ceil(corners.max(0)) + 1, [width, height]).astype(int)
    if right <= left or bottom <= top:
        return np.zeros((output_px, output_px, 3), np.float32)
    part = image[top:bottom, left:right].permute(2, 0, 1)[None].float()
    # grid_sample wants -1..1 from edge to edge of the part (align_corners=False).
    size = np.array([right - left, bottom - top])
    along_x, along_y = (axis / size for axis in region.basis())
    origin = (np.array([region.x, region.y]) - [left, top]) / size * 2 - 1
    theta = torch.tensor(np.stack([along_x, along_y, origin], -1)[None], dtype=torch.float32)
    grid = torch.nn.functional.affine_grid(theta, [1, 3, output_px, output_px], align_corners=False)
    sampled = torch.nn.functional.grid_sample(part, grid, padding_mode="zeros", align_corners=False)
    return (sampled[0].permute(1, 2, 0) / 255).contiguous().numpy()
