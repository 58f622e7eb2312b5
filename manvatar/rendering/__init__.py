"""Volume rendering of any :class:`manvatar.types.Field`; knows nothing of the fields this project has."""

from manvatar.rendering.marching import MarchConfig, MarchTables, march, march_tables, uniform_samples
from manvatar.rendering.occupancy import OccupancyGrid
from manvatar.rendering.rays import camera_rays, image_rays, intersect_box
from manvatar.rendering.render import render, render_image
from manvatar.rendering.visibility import light_from_cells, seen_cells

__all__ = [
    "MarchConfig",
    "MarchTables",
    "OccupancyGrid",
    "camera_rays",
    "image_rays",
    "intersect_box",
    "light_from_cells",
    "march",
    "march_tables",
    "render",
    "render_image",
    "seen_cells",
    "uniform_samples",
]
