"""A video to judge a track by: mesh, landmarks, head axes and residual over the frames of the clip.

The strip along the lower edge is the residual of the whole clip, with a mark where the frame is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from manvatar.geometry import crop_camera, project, transform
from manvatar.landmarks import as_ibug68
from manvatar.ops.rasterize import Rasterized, rasterize
from manvatar.tracking.projection import landmarks_head_m
from manvatar.types import Camera, Clip, FaceModel, Landmarks, Track
from manvatar.video import frames, writer

Rasterise = Callable[[Tensor, Tensor, Camera, Tensor], Rasterized]

LONGER_PX = 720
MARGIN_M = 0.2  # shown around the point between the eyes
AXIS_M = 0.08
_DETECTED, _FITTED, _BAD = (60, 220, 60), (255, 60, 60), (255, 40, 40)
_AXES = ((255, 70, 70), (70, 220, 70), (80, 140, 255))  # x to the subject's left, y up, z out of the face
_MESH = np.array([120.0, 200.0, 255.0], np.float32)
_MESH_OPACITY = 0.45
_STRIP_PX = 36  # height of the strip; its top is the clip's largest residual
# Parts that would show through the skin.
_HIDDEN = ("teeth", "gum", "tongue", "bag", "socket", "eye")


def write_overlay(
    path: str | os.PathLike[str],
    clip: Clip,
    track: Track,
    landmarks: Landmarks,
    face_model: FaceModel,
    progress: Callable[[int, int], None] | None = None,
    rasterise: Rasterise | None = None,
) -> None:
    """Write the overlay video: mesh (blue), detected (green) and fitted (red) landmarks, axes, residual.

    The picture is the part of the frame where the head moves, at most ``LONGER_PX`` long. Frames that are not valid get
    a red border.

    Args:
        landmarks: what was tracked.
        progress: called with frames done and frames in all.
        rasterise: draws the mesh; None = :func:`rasterise_natively`. ``manvatar.interop.pytorch3d.rasterize`` is one.

    Raises:
        UserError: ``path`` cannot be written to or is no ``.mp4``, ``.mov`` or ``.mkv``.
    """
    view = _View.of(track)
    camera = crop_camera(track.camera, float(view.left), float(view.top), view.scale, view.size_px)
    mesh = _Mesh(face_model, track, rasterise or rasterise_natively)
    fitted = project(camera, transform(track.cam_from_head, landmarks_head_m(track, face_model)))
    shown = face_model.embedding(track.landmark_scheme).weight > 0
    if track.landmark_scheme == "ibug68":
        landmarks = as_ibug68(landmarks)
    detected = (landmarks.points_px - torch.tensor([view.left, view.top])) * view.scale
    strip = _strip(track, view.size_px)
    with writer(path, clip.frame_rate_hz, view.size_px, synthetic=False) as video:
        for done, frame in enumerate(frames(clip), 1):
            if frame.index >= track.frame_count:
                break
            pixels = view.cut(frame.image)
            mesh.draw(pixels, track, frame.index, camera)
            picture = Image.fromarray(pixels)
            pen = ImageDraw.Draw(picture)
            _draw_points(pen, detected[frame.index][shown], _DETECTED)
            _draw_points(pen, fitted[frame.index][shown], _FITTED)
            _draw_axes(pen, track.cam_from_head[frame.index], camera)
            _draw_text(pen, track, frame.index, view.size_px)
            _draw_strip(pen, strip, track, frame.index, view.size_px)
            video.write(np.asarray(picture))
            if progress is not None:
                progress(done, clip.frame_count)


@dataclass(frozen=True)
class _View:
    """The part of the clip that is shown, the same in every frame."""

    left: int
    top: int
    width: int
    height: int
    scale: float

    @staticmethod
    def of(track: Track) -> _View:
        """Where the head moves, with a margin."""
        focal, centre = track.camera.focal_px, track.camera.center_px
        seen = track.cam_from_head[track.valid, :3, 3]
        middle = seen[:, :2] / seen[:, 2:] * focal + centre
        reach = MARGIN_M / seen[:, 2:] * focal
        size = torch.tensor(track.camera.size_px)
        low = (middle - reach).amin(0).floor().long().clamp(min=0)
        high = torch.minimum((middle + reach).amax(0).ceil().long(), size)
        low, high = torch.minimum(low, size - 2), torch.maximum(high, low + 2)
        width, height = (high - low).tolist()
        return _View(int(low[0]), int(low[1]), width, height, min(1.0, LONGER_PX / max(width, height)))

    @property
    def size_px(self) -> tuple[int, int]:
        """Size of the overlay's picture."""
        return max(2, round(self.width * self.scale)), max(2, round(self.height * self.scale))

    def cut(self, image: UInt8[Tensor, "h w 3"]) -> np.ndarray:
        """This part of a frame, resized."""
        part = image[self.top : self.top + self.height, self.left : self.left + self.width]
        return np.array(Image.fromarray(part.numpy()).resize(self.size_px, Image.Resampling.BILINEAR))


def rasterise_natively(
    vertices_m: Float[Tensor, "1 vertices 3"],
    triangles: Int[Tensor, "triangles 3"],
    camera: Camera,
    cam_from_head: Float[Tensor, "1 4 4"],
) -> Rasterized:
    """The mesh of one frame by this library's own op; vertices in the head frame."""
    points = transform(cam_from_head, vertices_m)
    return rasterize(project(camera, points), points[..., 2].contiguous(), triangles, camera.size_px)


class _Mesh:
    """The person's mesh, each triangle shaded by how much it faces the camera."""

    def __init__(self, face_model: FaceModel, track: Track, rasterise: Rasterise) -> None:
        self._model, self._identity, self._rasterise = face_model, track.identity, rasterise
        visible = torch.tensor([not any(word in name for word in _HIDDEN) for name in face_model.part_names])
        triangles = face_model.triangles
        if face_model.vertex_part is not None:
            triangles = triangles[visible[face_model.vertex_part[triangles[:, 0]]]]
        self._triangles = triangles

    def draw(self, pixels: np.ndarray, track: Track, frame: int, camera: Camera) -> None:
        """Blend one frame's mesh into (height, width, 3) uint8 ``pixels``."""
        pose = track.cam_from_head[frame]
        vertices = self._model.vertices_m(self._identity, track.face_expression[frame])
        a, b, c = transform(pose, vertices)[self._triangles].unbind(1)
        # Towards the camera is negative z, and triangles are counter-clockwise seen from outside.
        normal = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=1)
        towards = -(normal * torch.nn.functional.normalize(a + b + c, dim=1)).sum(1)
        seen = self._rasterise(vertices[None], self._triangles, camera, pose[None]).triangle[0].long()
        drawn = (seen >= 0).numpy()
        shade = (0.3 + 0.7 * towards.clamp_min(0))[seen[seen >= 0]].numpy()
        pixels[drawn] = (1 - _MESH_OPACITY) * pixels[drawn] + _MESH_OPACITY * _MESH * shade[:, None]


def _draw_points(pen: ImageDraw.ImageDraw, points: Float[Tensor, "k 2"], colour: tuple[int, int, int]) -> None:
    for x, y in points[torch.isfinite(points).all(1)].tolist():
        pen.ellipse((x - 1, y - 1, x + 1, y + 1), fill=colour)


def _draw_axes(pen: ImageDraw.ImageDraw, cam_from_head: Float[Tensor, "4 4"], camera: Camera) -> None:
    ends = torch.cat([torch.zeros(1, 3), torch.eye(3) * AXIS_M])
    origin, *tips = project(camera, transform(cam_from_head, ends)).tolist()
    for tip, colour in zip(tips, _AXES, strict=True):
        pen.line((*origin, *tip), fill=colour, width=2)


def _draw_text(pen: ImageDraw.ImageDraw, track: Track, frame: int, size_px: tuple[int, int]) -> None:
    residual = float(track.residual_px[frame])
    words = f"frame {frame}   residual {residual:.2f} px   yaw/pitch/roll " + "/".join(
        f"{angle:+.0f}" for angle in head_angles_deg(track.cam_from_head[frame, :3, :3]).tolist()
    )
    valid = bool(track.valid[frame])
    words += "" if valid else "   NOT VALID: interpolated"
    pen.rectangle((0, 0, size_px[0], 16), fill=(0, 0, 0))
    pen.text((4, 2), words, fill=(255, 255, 255) if valid else _BAD)
    if not valid:
        pen.rectangle((0, 0, size_px[0] - 1, size_px[1] - 1), outline=_BAD, width=3)


def _strip(track: Track, size_px: tuple[int, int]) -> list[tuple[float, float]]:
    """The residual of every valid frame as a place in the picture."""
    width, height = size_px
    most = max(float(track.residual_px.nan_to_num().max()), 1e-6)
    heights = height - 2 - (_STRIP_PX - 4) * track.residual_px.nan_to_num() / most
    across = torch.arange(track.frame_count) * ((width - 1) / max(track.frame_count - 1, 1))
    return [(x, y) for x, y in torch.stack([across, heights], 1)[track.valid].tolist()]


def _draw_strip(
    pen: ImageDraw.ImageDraw, strip: list[tuple[float, float]], track: Track, frame: int, size_px: tuple[int, int]
) -> None:
    width, height = size_px
    pen.rectangle((0, height - _STRIP_PX, width, height), fill=(0, 0, 0))
    if len(strip) > 1:
        pen.line(strip, fill=_DETECTED)
    x = frame * (width - 1) / max(track.frame_count - 1, 1)
    pen.line((x, height - _STRIP_PX, x, height), fill=(255, 255, 255) if bool(track.valid[frame]) else _BAD)


def head_angles_deg(rotation: Float[Tensor, "*frames 3 3"]) -> Float[Tensor, "*frames 3"]:
    """Yaw (positive to the subject's left), pitch (positive up) and roll (positive to the subject's left), degrees."""
    forward, up = rotation[..., :, 2], rotation[..., :, 1]
    yaw = torch.atan2(forward[..., 0], -forward[..., 2])
    pitch = torch.asin((-forward[..., 1]).clamp(-1, 1))
    roll = torch.atan2(up[..., 0], -up[..., 1])
    return torch.rad2deg(torch.stack([yaw, pitch, roll], -1))
