"""Which square of the video becomes the training image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from manvatar.geometry import crop_camera, project, transform
from manvatar.types import Camera, Track

# A box around any head with hair, relative to the midpoint of the eye corners, in metres.
_HEAD_LOWER_M = (-0.115, -0.165, -0.12)
_HEAD_UPPER_M = (0.115, 0.145, 0.02)


@dataclass(frozen=True)
class Crop:
    """A square of the video and the size it is scaled to. It may reach over the border of the video."""

    left_px: float
    top_px: float
    side_px: float  # in pixels of the video
    size_px: int  # of the square image made from it

    @property
    def scale(self) -> float:
        return self.size_px / self.side_px

    def camera(self, camera: Camera) -> Camera:
        """The camera of the crop, from that of the video."""
        return crop_camera(camera, self.left_px, self.top_px, self.scale, (self.size_px, self.size_px))

    def context(self) -> Crop:
        """This crop with a quarter of its side around it, at the same scale, for networks that need surroundings.

        Its pixels coincide with those of this crop; :meth:`inner` cuts them out again.
        """
        side, size = self.side_px / 4, self.size_px // 4
        return Crop(self.left_px - side, self.top_px - side, self.side_px + 2 * side, self.size_px + 2 * size)

    def inner(self, context_image: Tensor) -> Tensor:
        """The part of an image (height, width, ...) of :meth:`context` that is this crop."""
        border = self.size_px // 4
        return context_image[border:-border, border:-border]

    def cut(self, image: UInt8[Tensor, "height width 3"]) -> UInt8[Tensor, "size size 3"]:
        """The crop of a frame, scaled with antialiasing; beyond the video's border its edge pixels are repeated."""
        height, width = image.shape[:2]
        left, top, side = round(self.left_px), round(self.top_px), round(self.side_px)
        right, bottom = left + side, top + side
        inside = image[max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
        if inside.shape[:2] != (side, side):
            inside = _with_edges(image, left, top, side)
        # As bytes, colour last: four times as fast as floating point, and no more than one grey level off.
        pixels = inside.permute(2, 0, 1)[None]
        size = (self.size_px, self.size_px)
        scaled = functional.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
        return scaled[0].permute(1, 2, 0).contiguous()


def _with_edges(image: UInt8[Tensor, "height width 3"], left: int, top: int, side: int) -> UInt8[Tensor, "s s 3"]:
    """A square that reaches over the border of an image: its edge pixels are repeated. Much faster than indexing."""
    height, width = image.shape[:2]
    rows = torch.arange(top, top + side).clamp(0, height - 1)
    inner = slice(min(max(-left, 0), side), max(min(width - left, side), 0))  # columns that the image has
    if inner.stop <= inner.start:
        return image[rows][:, torch.arange(left, left + side).clamp(0, width - 1)]
    result = image.new_empty(side, side, 3)
    result[:, inner] = image[rows, max(left, 0) : max(left, 0) + inner.stop - inner.start]
    result[:, : inner.start] = result[:, inner.start, None]
    result[:, inner.stop :] = result[:, inner.stop - 1, None]
    return result


def head_crop(track: Track, size_px: int) -> Crop:
    """The smallest square that holds a generous head box in (almost) every valid frame, ``size_px`` pixels large."""
    corners = torch.cartesian_prod(*torch.tensor([_HEAD_LOWER_M, _HEAD_UPPER_M]).unbind(1))
    poses = track.cam_from_head[track.valid].float()
    pixels = project(track.camera, transform(poses, corners.expand(len(poses), -1, -1)))
    low, high = pixels.amin(1), pixels.amax(1)
    # One wild pose must not shrink the head in all other frames.
    low, high = low.quantile(0.005, dim=0), high.quantile(0.995, dim=0)
    return _square(low, high, size_px)


def fitted_crop(crop: Crop, alphas: Float[Tensor, "frames size size"], size_px: int, margin: float = 0.04) -> Crop:
    """The square around everything that mattes of ``crop`` show in any frame, ``size_px`` pixels large."""
    rows = (alphas > 0.3).any(2).any(0).nonzero()[:, 0]
    columns = (alphas > 0.3).any(1).any(0).nonzero()[:, 0]
    if len(rows) == 0:
        return Crop(crop.left_px, crop.top_px, crop.side_px, size_px)
    low = torch.stack([columns[0], rows[0]]).float()
    high = torch.stack([columns[-1], rows[-1]]).float() + 1
    pad = margin * (high - low).amax()
    corner = torch.tensor([crop.left_px, crop.top_px])
    return _square((low - pad) / crop.scale + corner, (high + pad) / crop.scale + corner, size_px)


def _square(low: Float[Tensor, "2"], high: Float[Tensor, "2"], size_px: int) -> Crop:
    """Whole pixels, and a side that divides by 4: cutting is then exact, and the camera says just what was cut."""
    center, side = (low + high) / 2, math.ceil(float((high - low).amax()) / 4) * 4.0
    left, top = (center - side / 2).round().tolist()
    return Crop(left, top, side, size_px)
