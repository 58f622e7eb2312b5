"""Where the head ends: a surface around the neck that moves with the head.

What an avatar shows must move with the head. The neck does so less and less downward, and clothes not at all, so the
picture is cut on a surface fixed in the head frame. The neck is taken for a cylinder; a pixel belongs to the point
where its ray first meets that cylinder, or comes closest to its axis when it misses. The pixel is kept when this point
is above the cut's height at its angle around the neck. Because the surface lies in the head frame, all frames of a clip
agree about it, whatever the pose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from manvatar.geometry import inverse_rigid, pixel_directions, pixel_grid
from manvatar.types import Camera

ANGLES = 48  # height of the cut is known at that many angles around the neck, evenly spaced from -pi

# Proportions, in units of the height of the chin under the eyes (about 0.1 m).
_CHIN_TO_NECK = 0.45  # from the chin back to the front of the neck
_LEAN_RAD = math.radians(15)  # the neck goes down and backward
_DEPTH = 0.45  # of the cut below the chin, measured along the neck
# Outside the neck the cut rises, so that a shoulder stays outside when the head leans toward it.
_RIM, _SLOPE = 1.25, 0.5
_EDGE = 1.0, 1.12  # from the height on the neck to that beside it; distances from the axis in radii


@dataclass(frozen=True)
class NeckCut:
    """The cylinder of the neck in the head frame, and the height at which it is cut."""

    origin_m: Float[Tensor, "3"]  # on the axis, level with the chin
    up: Float[Tensor, "3"]  # unit; along the axis, toward the head
    front: Float[Tensor, "3"]  # unit, perpendicular to ``up``: angle 0; positive angles turn to the subject's left
    radius_m: float
    unit_m: float  # height of the chin under the eyes, the measure of this head
    height_m: Float[Tensor, "angles"]  # of the cut above the origin, on the neck; ANGLES values from -pi
    beside_m: Float[Tensor, "angles"]  # and outside the cylinder, where hair hangs and shoulders begin

    @property
    def left(self) -> Float[Tensor, "3"]:
        """Unit vector to the subject's left."""
        return torch.linalg.cross(self.up, self.front)

    def with_heights(self, height_m: Float[Tensor, "angles"], beside_m: Float[Tensor, "angles"]) -> NeckCut:
        """The same neck, cut elsewhere."""
        return replace(self, height_m=height_m, beside_m=beside_m)


def generic_cut(landmarks_m: Float[Tensor, "68 3"]) -> NeckCut:
    """The cut for a person of whom only the face is known: level, in the upper half of the neck.

    Args:
        landmarks_m: iBUG-68 points of the person in the head frame (origin between the eyes), neutral or averaged.
    """
    points = landmarks_m.float().cpu()
    chin, jaw_right, jaw_left = points[8], points[4], points[12]
    unit = float(points[36:48, 1].mean() - chin[1])
    radius = 0.55 * float((jaw_left - jaw_right).norm())
    up = torch.tensor([0.0, math.cos(_LEAN_RAD), math.sin(_LEAN_RAD)])
    front = torch.tensor([0.0, -math.sin(_LEAN_RAD), math.cos(_LEAN_RAD)])
    origin = torch.stack([(jaw_right + jaw_left)[0] / 2, chin[1], chin[2] - _CHIN_TO_NECK * unit - radius])
    level = torch.full((ANGLES,), -_DEPTH * unit)
    return NeckCut(origin, up, front, radius, unit, level, level)


@dataclass(frozen=True)
class NeckCoordinates:
    """Pixels in the coordinates of the neck; maps (height, width)."""

    height_m: Float[Tensor, "height width"]  # along the axis, from the origin
    angle_rad: Float[Tensor, "height width"]  # around it, 0 = front, (-pi, pi]
    distance_m: Float[Tensor, "height width"]  # from the axis; at least the radius


def neck_coordinates(
    cut: NeckCut, camera: Camera, cam_from_head: Float[Tensor, "4 4"], size_px: tuple[int, int]
) -> NeckCoordinates:
    """Of every pixel of a picture of ``size_px`` (width, height) that shows the camera's whole view."""
    scale = torch.tensor(camera.size_px, dtype=torch.float32) / torch.tensor(size_px, dtype=torch.float32)
    directions_cam = pixel_directions(camera, pixel_grid(size_px) * scale)
    head_from_cam = inverse_rigid(cam_from_head.float())
    axes = torch.stack([cut.left, cut.up, cut.front])  # rows: neck from head
    d = directions_cam @ (axes @ head_from_cam[:3, :3]).T
    o = axes @ (head_from_cam[:3, 3] - cut.origin_m)
    # In the plane across the axis (x left, z front): |o + t d|^2 = radius^2.
    a = d[..., 0] ** 2 + d[..., 2] ** 2
    b = o[0] * d[..., 0] + o[2] * d[..., 2]
    c = o[0] ** 2 + o[2] ** 2 - cut.radius_m**2
    # Without a real root the clamp leaves the closest approach, so the map is continuous across the outline.
    t = (-b - (b * b - a * c).clamp(min=0).sqrt()) / a.clamp(min=1e-12)
    x, z = o[0] + t * d[..., 0], o[2] + t * d[..., 2]
    return NeckCoordinates(o[1] + t * d[..., 1], torch.atan2(x, z), torch.hypot(x, z))


def rise_m(cut: NeckCut, where: NeckCoordinates) -> Float[Tensor, "height width"]:
    """How much higher the cut is at each pixel than its table says, because it rises outside the neck."""
    return _SLOPE * (where.distance_m - _RIM * cut.radius_m).clamp(min=0)


def height_over_cut_m(cut: NeckCut, where: NeckCoordinates) -> Float[Tensor, "height width"]:
    """How far above the cut each pixel is, metres; negative below it."""
    position = (where.angle_rad / (2 * math.pi) + 0.5) * ANGLES
    low = position.floor()
    index, share = low.long() % ANGLES, position - low
    following = (index + 1) % ANGLES
    on_neck = torch.lerp(cut.height_m[index], cut.height_m[following], share)
    beside = torch.lerp(cut.beside_m[index], cut.beside_m[following], share)
    outside = ((where.distance_m / cut.radius_m - _EDGE[0]) / (_EDGE[1] - _EDGE[0])).clamp(0, 1)
    return where.height_m - torch.lerp(on_neck, beside, outside) - rise_m(cut, where)
