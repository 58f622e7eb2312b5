"""Between the head poses of AvatarMAV's released code and ours.

There a frame has a pose (rotation vector w, translation T) and a scale S: a point x of the canonical frame, in units of
the authors' Basel model, is at R(w) S x + T in the world. One camera looks at all frames: world y up and z towards it,
4 world units from the origin, focal length 2500 for an image of 256 pixels, its axis through the middle.

Here a head is rigid and in metres: h = unit_m (x - origin). A picture does not change when everything is scaled about
the camera, so S goes into the translation: with F = diag(1, -1, -1) and c = (0, 0, 4),

    cam_from_head = [ F R | unit_m F R origin + (unit_m / S) (F T + c) ]

A metre is S / unit_m world units, and their density is per 1/100 of a world unit: ``density_scale_per_m`` says how much
of it that is for us.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from manvatar.fields import PaperFieldConfig
from manvatar.geometry import (
    pixel_directions,
    project,
    rigid,
    rotation_from_vector,
    skew,
    transform,
    vector_from_rotation,
)
from manvatar.rendering import intersect_box
from manvatar.types import Box, Camera, Rays

_FOCAL_AT_256_PX = 2500.0
_DISTANCE = 4.0  # world units from the camera to the world's origin
_MISS = (3.5, 4.5)  # depths in world units between which their rays that miss the box are sampled
_DENSITY_PER_WORLD_UNIT = 100.0
_FLIP = (1.0, -1.0, -1.0)


def released_camera(size_px: int, dtype: torch.dtype = torch.float32) -> Camera:
    """The released code's camera for square images of ``size_px``."""
    focal = torch.full((2,), _FOCAL_AT_256_PX * size_px / 256, dtype=dtype)
    return Camera(focal, torch.full((2,), size_px / 2, dtype=dtype), (size_px, size_px))


def density_scale_per_m(scale: float, unit_m: float) -> float:
    """What the released code multiplies densities with, per metre, in frames of this ``scale``."""
    return _DENSITY_PER_WORLD_UNIT * scale / unit_m


def from_released(
    pose: Float[Tensor, "frames 6"], scale: Float[Tensor, "frames"], config: PaperFieldConfig
) -> Float[Tensor, "frames 4 4"]:
    """``cam_from_head`` of frames that the released code describes by pose and scale. Differentiable."""
    rotation = pose.new_tensor(_FLIP)[:, None] * rotation_from_vector(pose[:, :3])
    shift = pose[:, 3:] * pose.new_tensor(_FLIP) + pose.new_tensor([0.0, 0.0, _DISTANCE])
    offset = rotation @ pose.new_tensor(config.origin)
    return rigid(rotation, config.unit_m * (offset + shift / scale[:, None]))


def to_released(
    cam_from_head: Float[Tensor, "frames 4 4"], scale: float, config: PaperFieldConfig
) -> Float[Tensor, "frames 6"]:
    """The inverse of :func:`from_released` for frames of one ``scale``."""
    rotation, flip = cam_from_head[:, :3, :3], cam_from_head.new_tensor(_FLIP)
    offset = rotation @ cam_from_head.new_tensor(config.origin)
    shift = (cam_from_head[:, :3, 3] / config.unit_m - offset) * scale
    translation = (shift - shift.new_tensor([0.0, 0.0, _DISTANCE])) * flip
    return torch.cat([vector_from_rotation(flip[:, None] * rotation), translation], -1)


def scale_at_distance(cam_from_head: Float[Tensor, "frames 4 4"], config: PaperFieldConfig) -> float:
    """The scale at which heads are, on average, as far from the released camera as it expects."""
    offset = cam_from_head[:, :3, :3] @ cam_from_head.new_tensor(config.origin) * config.unit_m
    depth_m = (cam_from_head[:, 2, 3] - offset[:, 2]).mean()
    return float(_DISTANCE * config.unit_m / depth_m)


def released_near_far(
    rays: Rays, cam_from_head: Float[Tensor, "batch 4 4"], box: Box, scale: float, unit_m: float
) -> tuple[Float[Tensor, "rays"], Float[Tensor, "rays"]]:
    """Where the released code takes samples: in the box, or at a fixed depth on rays that miss it; metres."""
    near, far = intersect_box(rays, box)
    axis = cam_from_head[rays.frame, 2, :3]
    per_depth = unit_m / scale / (axis * rays.directions).sum(-1)
    hit = near < far
    return torch.where(hit, near, _MISS[0] * per_depth), torch.where(hit, far, _MISS[1] * per_depth)


def refitted_poses(
    camera: Camera,
    cam_from_head: Float[Tensor, "frames 4 4"],
    points_m: Float[Tensor, "frames points 3"],
    target: Camera,
    steps: int = 12,
) -> tuple[Float[Tensor, "frames 4 4"], Float[Tensor, "frames"]]:
    """Poses under which another camera shows the points of the head where the first one does, as well as can be.

    Cameras of different perspective cannot agree about all points; least squares in pixels, by Gauss-Newton from
    the pose that keeps the head's direction and size.

    Args:
        camera: of the same images as ``target``.
        points_m: of the head, in the head frame; at least 3 that do not lie on a line.

    Returns:
        ``cam_from_head`` for ``target``, float64, and the root mean square difference in each frame, pixels.
    """
    poses, points = cam_from_head.double(), points_m.double()
    pixels = project(camera, transform(poses, points))
    pose = _seen_from(camera, poses, target)
    focal = target.focal_px.double()
    for _ in range(steps):
        cam = transform(pose, points)
        error = (project(target, cam) - pixels).flatten(1)
        z = cam[..., 2:]
        zero = torch.zeros_like(z)
        rows = torch.stack(
            [
                torch.cat([focal[0] / z, zero, -focal[0] * cam[..., :1] / z**2], -1),
                torch.cat([zero, focal[1] / z, -focal[1] * cam[..., 1:2] / z**2], -1),
            ],
            -2,
        )
        turned = cam - pose[:, None, :3, 3]
        jacobian = torch.cat([-rows @ skew(turned), rows], -1).flatten(1, 2)
        # A little damping keeps depth and rotation from drifting where perspective hardly tells them apart.
        normal = jacobian.mT @ jacobian
        normal = normal + 1e-9 * torch.diag_embed(normal.diagonal(dim1=1, dim2=2))
        step = torch.linalg.solve(normal, -(jacobian.mT @ error[..., None]))[..., 0]
        rotation = rotation_from_vector(step[:, :3]) @ pose[:, :3, :3]
        pose = rigid(rotation, pose[:, :3, 3] + step[:, 3:])
    error = project(target, transform(pose, points)) - pixels
    return pose, error.square().sum(-1).mean(-1).sqrt()


def _seen_from(camera: Camera, cam_from_head: Tensor, target: Camera) -> Tensor:
    """The head in the same place of the image, as large, and turned to the camera as before."""
    shift = cam_from_head[:, :3, 3]
    pixel = project(camera, shift)
    before, after = pixel_directions(camera, pixel), pixel_directions(target, pixel)
    axis = torch.linalg.cross(before, after)
    sine = axis.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    angle = torch.atan2(sine, (before * after).sum(-1, keepdim=True))
    rotation = rotation_from_vector(axis / sine * angle) @ cam_from_head[:, :3, :3]
    ratio = (target.focal_px / camera.focal_px).mean().double()
    return rigid(rotation, after * shift.norm(dim=-1, keepdim=True) * ratio)
