"""Which parts of a field any camera has looked at: what none has seen says nothing about the head."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from manvatar.geometry import crop_camera
from manvatar.ops import composite
from manvatar.rendering.marching import MarchConfig, MarchTables, march
from manvatar.rendering.occupancy import OccupancyGrid
from manvatar.rendering.rays import image_rays
from manvatar.types import Camera, Field, Rays

_RAYS_AT_ONCE = 16384


@torch.no_grad()
def light_from_cells(
    field: Field,
    occupancy: OccupancyGrid,
    tables: MarchTables,
    config: MarchConfig,
    camera: Camera,
    cam_from_head: Float[Tensor, "frames 4 4"],
    expression: Float[Tensor, "frames expression"],
) -> Float[Tensor, "z y x"]:
    """For every cell the largest weight in [0, 1] that one sample in it has in any ray of any of the frames.

    Every second pixel along each axis is looked at.
    """
    width, height = (max(1, side // 2) for side in camera.size_px)
    camera = crop_camera(camera, 0.0, 0.0, 0.5, (width, height))
    light = torch.zeros_like(occupancy.highest).flatten()
    for pose, coefficients in zip(cam_from_head, expression, strict=True):
        rays = image_rays(camera, pose)
        field_here = field.at(coefficients[None], pose[None])
        for chunk in torch.arange(len(rays.origins_m), device=pose.device).split(_RAYS_AT_ONCE):
            part = Rays(rays.origins_m[chunk], rays.directions[chunk], rays.frame[chunk])
            samples = march(part, occupancy, tables, config)
            directions = part.directions[samples.ray]
            points = part.origins_m[samples.ray] + directions * samples.distance_m[:, None]
            values = field_here(points, directions, part.frame[samples.ray])
            weights = composite(
                values.density_per_m, samples.length_m, values.rgb, samples.distance_m, samples.offsets
            )[3]
            light.scatter_reduce_(0, occupancy.cell_index(points)[0], weights, "amax")
    return light.view_as(occupancy.highest)


def seen_cells(light: Float[Tensor, "z y x"], least_light: float) -> Bool[Tensor, "z y x"]:
    """Cells whose neighbourhood gave ``least_light`` to some ray, one cell more all around, in one connected piece.

    The mean over 27 cells is what counts: a single bright cell in the fog is no surface. The piece is that of the
    brightest cell.
    """
    mean = functional.avg_pool3d(light[None, None], 3, 1, 1, count_include_pad=False)
    kept = functional.max_pool3d((mean >= least_light).float(), 3, 1, 1)
    piece = torch.zeros_like(kept)
    piece.view(-1)[mean.argmax()] = 1
    while True:
        grown = functional.max_pool3d(piece, 3, 1, 1) * kept
        if torch.equal(grown, piece):
            return piece[0, 0] > 0
        piece = grown
