"""Volume rendering (Max 1995; Mildenhall et al. 2020, equation 3) of any field."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from manvatar.ops import composite
from manvatar.rendering.marching import MarchConfig, MarchTables, march, march_tables
from manvatar.rendering.occupancy import OccupancyGrid
from manvatar.rendering.rays import image_rays
from manvatar.types import Camera, Field, FieldAtExpressions, Rays, RaySamples, Rendering


def render(
    field: FieldAtExpressions,
    rays: Rays,
    samples: RaySamples,
    background: Float[Tensor, "3"] | None = None,
) -> Rendering:
    """Render rays from given samples.

    Differentiable in what the field is made of and, through the sample positions, in the rays.
    Without a ``background`` the colour is premultiplied by opacity.
    """
    origins, directions = rays.origins_m[samples.ray], rays.directions[samples.ray]
    points = origins + directions * samples.distance_m[:, None]
    values = field(points, directions, rays.frame[samples.ray])
    rgb, opacity, depth_m, _ = composite(
        values.density_per_m, samples.length_m, values.rgb, samples.distance_m, samples.offsets
    )
    if background is not None:
        rgb = rgb + (1 - opacity)[:, None] * background.to(rgb)
    return Rendering(rgb, opacity, depth_m)


@torch.no_grad()
def render_image(
    field: Field,
    occupancy: OccupancyGrid,
    camera: Camera,
    cam_from_head: Float[Tensor, "4 4"],
    expression: Float[Tensor, "expression"],
    config: MarchConfig,
    *,
    background: Float[Tensor, "3"] | None = None,
    tables: MarchTables | None = None,
    rays_per_chunk: int | None = None,
) -> Rendering:
    """Render a whole image: ``rgb`` (H, W, 3), ``opacity`` (H, W), ``depth_m`` (H, W). Not differentiable.

    Args:
        tables: ``march_tables(occupancy, config)`` when many images are rendered, to save making them each time.
        background: colour behind the head; None gives premultiplied colour.
        rays_per_chunk: bounds the memory; None = 8192, on a GPU 65536.
    """
    rays_per_chunk = rays_per_chunk or (65536 if cam_from_head.is_cuda else 8192)
    background = None if background is None else background.to(cam_from_head)
    tables = march_tables(occupancy, config) if tables is None else tables
    rays = image_rays(camera, cam_from_head)
    field_here = field.at(expression[None], cam_from_head[None])
    parts = []
    for chunk in torch.arange(len(rays.origins_m), device=rays.origins_m.device).split(rays_per_chunk):
        part = Rays(rays.origins_m[chunk], rays.directions[chunk], rays.frame[chunk])
        samples = march(part, occupancy, tables, config)
        parts.append(render(field_here, part, samples, background))
    width, height = camera.size_px
    return Rendering(
        torch.cat([p.rgb for p in parts]).reshape(height, width, 3),
        torch.cat([p.opacity for p in parts]).reshape(height, width),
        torch.cat([p.depth_m for p in parts]).reshape(height, width),
    )
