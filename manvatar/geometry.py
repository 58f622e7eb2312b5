"""Rigid transforms, projection and rays. Conventions: ``manvatar.types``.

``R`` is a rotation matrix, ``w`` a rotation vector (axis times angle, radians), ``dst_from_src`` a 4x4 rigid matrix.
Everything broadcasts over leading dimensions and is differentiable, at zero rotation too.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from manvatar.types import Camera


def skew(w: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Matrix of the cross product: ``skew(a) @ b = a x b``."""
    x, y, z = w.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*w.shape[:-1], 3, 3)


def rotation_from_vector(w: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rodrigues' formula; a Taylor branch keeps value and gradient exact at zero."""
    squared = (w * w).sum(-1)[..., None, None]
    small = squared < 1e-8
    safe = torch.where(small, torch.ones_like(squared), squared)
    angle = safe.sqrt()
    a = torch.where(small, 1 - squared / 6, angle.sin() / angle)
    b = torch.where(small, 0.5 - squared / 24, (1 - angle.cos()) / safe)
    cross = skew(w)
    identity = torch.eye(3, dtype=w.dtype, device=w.device)
    return identity + a * cross + b * (cross @ cross)


def vector_from_rotation(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Inverse of :func:`rotation_from_vector`, angle in [0, pi]; through the quaternion, so it holds near pi."""
    m = rotation
    trace = m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2]
    # Four algebraically equal quaternions; the one with the largest divisor is the accurate one (Shepperd 1978).
    candidates = torch.stack(
        [
            torch.stack(
                [1 + trace, m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]], -1
            ),
            torch.stack(
                [
                    m[..., 2, 1] - m[..., 1, 2],
                    1 + 2 * m[..., 0, 0] - trace,
                    m[..., 0, 1] + m[..., 1, 0],
                    m[..., 0, 2] + m[..., 2, 0],
                ],
                -1,
            ),
            torch.stack(
                [
                    m[..., 0, 2] - m[..., 2, 0],
                    m[..., 0, 1] + m[..., 1, 0],
                    1 + 2 * m[..., 1, 1] - trace,
                    m[..., 1, 2] + m[..., 2, 1],
                ],
                -1,
            ),
            torch.stack(
                [
                    m[..., 1, 0] - m[..., 0, 1],
                    m[..., 0, 2] + m[..., 2, 0],
                    m[..., 1, 2] + m[..., 2, 1],
                    1 + 2 * m[..., 2, 2] - trace,
                ],
                -1,
            ),
        ],
        -2,
    )
    best = torch.stack([candidates[..., i, i] for i in range(4)], -1).argmax(-1)
    quaternion = torch.take_along_dim(candidates, best[..., None, None].expand(*best.shape, 1, 4), -2)[..., 0, :]
    quaternion = quaternion / quaternion.norm(dim=-1, keepdim=True)
    quaternion = torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    w, xyz = quaternion[..., :1], quaternion[..., 1:]
    squared = (xyz * xyz).sum(-1, keepdim=True)
    small = squared < 1e-12
    sine = torch.where(small, torch.ones_like(squared), squared).sqrt()
    return torch.where(small, 2 * xyz, xyz * (2 * torch.atan2(sine, w) / sine))


def rigid(
    rotation: Float[Tensor, "*batch 3 3"], translation_m: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch 4 4"]:
    """A 4x4 matrix from its rotation and translation."""
    top = torch.cat([rotation, translation_m[..., None]], -1)
    bottom = torch.zeros_like(top[..., :1, :])
    bottom[..., 0, 3].fill_(1)
    return torch.cat([top, bottom], -2)


def inverse_rigid(dst_from_src: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """``src_from_dst``, by transposing the rotation."""
    rotation = dst_from_src[..., :3, :3].transpose(-1, -2)
    return rigid(rotation, -(rotation @ dst_from_src[..., :3, 3:])[..., 0])


def transform(
    dst_from_src: Float[Tensor, "*batch 4 4"], points: Float[Tensor, "*batch points 3"]
) -> Float[Tensor, "*batch points 3"]:
    """Points of ``src`` in ``dst``."""
    return points @ dst_from_src[..., :3, :3].transpose(-1, -2) + dst_from_src[..., None, :3, 3]


def project(camera: Camera, points_cam_m: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 2"]:
    """Pixels (x, y) of points in front of the camera (z > 0; not checked)."""
    focal, center = camera.focal_px.to(points_cam_m), camera.center_px.to(points_cam_m)
    return points_cam_m[..., :2] / points_cam_m[..., 2:] * focal + center


def pixel_directions(camera: Camera, pixels: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 3"]:
    """Unit directions in the camera frame through image positions (x, y)."""
    xy = (pixels - camera.center_px.to(pixels)) / camera.focal_px.to(pixels)
    directions = torch.cat([xy, torch.ones_like(xy[..., :1])], -1)
    return directions / directions.norm(dim=-1, keepdim=True)


def pixel_grid(size_px: tuple[int, int]) -> Float[Tensor, "height width 2"]:
    """Centres (x, y) of all pixels."""
    width, height = size_px
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x, y], -1)


def crop_camera(camera: Camera, left_px: float, top_px: float, scale: float, size_px: tuple[int, int]) -> Camera:
    """The camera of an image made by cutting at (left, top) and then resizing by ``scale``."""
    offset = torch.tensor([left_px, top_px], dtype=camera.center_px.dtype, device=camera.center_px.device)
    return Camera(camera.focal_px * scale, (camera.center_px - offset) * scale, size_px)


def mean_pose(cam_from_head: Float[Tensor, "frames 4 4"]) -> Float[Tensor, "4 4"]:
    """The mean of some poses: mean translation, and the rotation nearest to the mean matrix.

    The rotation minimises the summed squared chordal distance (Moakher 2002, "Means and averaging in the group of
    rotations"). Float64; not differentiable.
    """
    poses = cam_from_head.detach().double()
    u, _, vh = torch.linalg.svd(poses[:, :3, :3].mean(0))
    sign = torch.ones(3, dtype=torch.float64)
    sign[2] = torch.linalg.det(u @ vh).sign()  # a rotation, not a reflection
    return rigid(u @ (sign[:, None] * vh), poses[:, :3, 3].mean(0))
