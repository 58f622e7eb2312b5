"""From pixels to rays in the head frame, and where rays meet a box."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from manvatar.geometry import inverse_rigid, pixel_directions, pixel_grid
from manvatar.types import Box, Camera, Rays


def camera_rays(
    camera: Camera,
    cam_from_head: Float[Tensor, "batch 4 4"],
    pixels: Float[Tensor, "rays 2"],
    frame: Int[Tensor, "rays"],
) -> Rays:
    """Rays through image positions, in the head frame of their frame.

    Args:
        camera: the camera of all frames.
        cam_from_head: pose of the head in each frame of the batch; metres. Differentiable.
        pixels: image positions (x, y); pixel centres are at half-integers.
        frame: row of ``cam_from_head`` for each ray.
    """
    head_from_cam = inverse_rigid(cam_from_head)
    directions_cam = pixel_directions(camera, pixels)
    directions = torch.einsum("rij,rj->ri", head_from_cam[frame, :3, :3], directions_cam)
    return Rays(head_from_cam[frame, :3, 3], directions, frame)


def image_rays(camera: Camera, cam_from_head: Float[Tensor, "4 4"]) -> Rays:
    """One ray through every pixel centre, row by row."""
    pixels = pixel_grid(camera.size_px).reshape(-1, 2).to(cam_from_head)
    frame = torch.zeros(len(pixels), dtype=torch.int64, device=cam_from_head.device)
    return camera_rays(camera, cam_from_head[None], pixels, frame)


def intersect_box(rays: Rays, box: Box) -> tuple[Float[Tensor, "rays"], Float[Tensor, "rays"]]:
    """Distances at which rays enter and leave ``box`` (slab test, Kay and Kajiya 1986); near >= far means a miss.

    The entry is never behind the origin. Not differentiable.
    """
    # Guarding tiny components keeps 0/0 out for rays that run inside a face of the box.
    directions = rays.directions.detach()
    safe = torch.where(directions.abs() < 1e-9, torch.full_like(directions, 1e-9), directions)
    origins = rays.origins_m.detach()
    a = (box.lower_m.to(origins) - origins) / safe
    b = (box.upper_m.to(origins) - origins) / safe
    near = torch.minimum(a, b).amax(-1).clamp_min(0)
    far = torch.maximum(a, b).amin(-1)
    return near, far
