"""Small grey pictures of the face, one for each frame of a clip, as dense refinement wants them.

They are cut where a track says that the face is, at one scale for the whole clip, and shown as local contrast:
brightness less its local mean, over its local deviation. Light that changes slowly over the face or from frame to
frame leaves it as it is, which takes the place of a lighting model.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from manvatar.geometry import project, transform
from manvatar.types import Camera, Clip, Track
from manvatar.video import frames

EYE_DISTANCE_PX = 64.0  # distance of the outer eye corners in a patch
_LUMA = (0.299, 0.587, 0.114)  # BT.601, of encoded values
_FINE_PX, _COARSE_PX = 1.0, 6.0  # deviations of the Gaussians that bound the band
_NOISE = 8.0  # grey levels: a deviation below this is no contrast
_MARGIN_PX = 16
_BLOCK = 32


@dataclass(frozen=True)
class Patches:
    """The pictures, and where they lie: position ``u`` in the video is ``u * scale - corner_px`` in a patch."""

    contrast: Float[Tensor, "frames height width"]  # float16, mapped to a file: never wholly in memory
    corner_px: Float[Tensor, "frames 2"]
    scale: Float[Tensor, "2"]
    camera: Camera  # of the video

    def focal_px(self) -> Float[Tensor, "2"]:
        """Focal length in pixels of the patches."""
        return self.camera.focal_px * self.scale

    def center_px(self, rows: Int[Tensor, "f"]) -> Float[Tensor, "f 2"]:
        """Principal point in each patch."""
        return self.camera.center_px * self.scale - self.corner_px[rows]


def cut_patches(
    clip: Clip, track: Track, points_m: Float[Tensor, "points 3"], progress: Callable[[int, int], None] | None = None
) -> Patches:
    """Decode the clip once and cut the face out of every frame.

    Args:
        track: of the clip; frames that are not valid are cut where its interpolated pose says.
        points_m: head frame; what must lie inside the patches, at any expression near it.
    """
    size_px, scale = _scaled_size(clip, track, points_m)
    low, high = (corner * scale for corner in _boxes_px(track, points_m))
    extent = (high - low)[track.valid].amax(0) if track.valid.any() else (high - low).amax(0)
    side = [max(32, math.ceil(float(length) / 8) * 8 + 2 * _MARGIN_PX) for length in extent]
    corner = ((low + high) / 2 - torch.tensor(side) / 2).round()
    contrast = _mapped(clip.frame_count, side[1], side[0])
    waiting: list[tuple[int, Tensor]] = []
    for frame in frames(clip, size_px=size_px, accurate=False):
        waiting.append((frame.index, _cut(frame.image, corner[frame.index], side)))
        if len(waiting) == _BLOCK:
            _flush(waiting, contrast)
        if progress is not None:
            progress(frame.index + 1, clip.frame_count)
    _flush(waiting, contrast)
    return Patches(contrast, corner, scale, track.camera)


def local_contrast(gray: Float[Tensor, "frames height width"]) -> Float[Tensor, "frames height width"]:
    """Band-passed brightness over its local deviation; grey levels in [0, 255] give values within about +-4."""
    fine = _blur(gray, _FINE_PX)
    mean = _blur(gray, _COARSE_PX)
    deviation = _blur((gray - mean) ** 2, _COARSE_PX).clamp_min(0).sqrt()
    return (fine - mean) / (deviation + _NOISE)


def _scaled_size(clip: Clip, track: Track, points_m: Tensor) -> tuple[tuple[int, int], Tensor]:
    """The size to decode at, at which the face has its standard size in the middle of the clip; never enlarged."""
    focal = float(track.camera.focal_px.mean())
    poses = track.cam_from_head[track.valid] if track.valid.any() else track.cam_from_head
    depth = float(poses[:, 2, 3].median())
    eyes_px = 0.09 * focal / max(depth, 1e-3)  # outer eye corners of a grown-up are 9 cm apart
    ratio = min(1.0, EYE_DISTANCE_PX / eyes_px)
    size = tuple(max(16, round(length * ratio)) for length in clip.size_px)
    return size, torch.tensor([small / large for small, large in zip(size, clip.size_px, strict=True)])


def _boxes_px(track: Track, points_m: Float[Tensor, "points 3"]) -> tuple[Tensor, Tensor]:
    """Lower and upper corner of the points in every frame of the video, (frames, 2) each."""
    corners = []
    for poses in track.cam_from_head.float().split(_BLOCK):
        where = project(track.camera, transform(poses, points_m.expand(len(poses), -1, -1)))
        corners.append(torch.stack([where.amin(1), where.amax(1)]))
    low, high = torch.cat(corners, 1)
    return low, high


def _cut(image: UInt8[Tensor, "height width 3"], corner: Tensor, side: list[int]) -> Float[Tensor, "h w"]:
    """Grey patch; beyond the border of the video its edge is repeated."""
    height, width = image.shape[:2]
    columns = (torch.arange(side[0]) + int(corner[0])).clamp(0, width - 1)
    rows = (torch.arange(side[1]) + int(corner[1])).clamp(0, height - 1)
    return image[rows][:, columns].float() @ torch.tensor(_LUMA)


def _flush(waiting: list[tuple[int, Tensor]], contrast: Tensor) -> None:
    if waiting:
        index = torch.tensor([number for number, _ in waiting])
        contrast[index] = local_contrast(torch.stack([gray for _, gray in waiting])).half()
        waiting.clear()


def _mapped(count: int, height: int, width: int) -> Tensor:
    """Zeros in a nameless temporary file."""
    length = count * height * width
    with tempfile.NamedTemporaryFile(prefix="manvatar-") as file:
        file.truncate(2 * length)
        return torch.from_file(file.name, shared=True, size=length, dtype=torch.float16).view(count, height, width)


def _blur(image: Float[Tensor, "f h w"], deviation_px: float) -> Float[Tensor, "f h w"]:
    """Gaussian, border pixels repeated. As two matrix products: convolutions of a single channel are slower."""
    down, across = (_blurring(length, deviation_px).to(image) for length in image.shape[1:])
    return down @ (image @ across.T)


@lru_cache(maxsize=16)
def _blurring(length: int, deviation_px: float) -> Float[Tensor, "length length"]:
    """The matrix that blurs a line of pixels."""
    reach = math.ceil(3 * deviation_px)
    offset = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-0.5 * (offset / deviation_px) ** 2)
    row = torch.arange(length)[:, None]
    column = (row + offset).clamp(0, length - 1)
    matrix = torch.zeros(length, length)
    return matrix.index_put_((row.expand_as(column), column), (kernel / kernel.sum()).expand(length, -1), True)
