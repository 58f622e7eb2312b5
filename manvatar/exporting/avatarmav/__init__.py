"""Data of AvatarMAV's released code (github.com/YuelangX/AvatarMAV, MIT), in and out: checkpoints, dataset folders."""

from manvatar.exporting.avatarmav.camera import (
    density_scale_per_m,
    from_released,
    refitted_poses,
    released_camera,
    released_near_far,
    scale_at_distance,
    to_released,
)
from manvatar.exporting.avatarmav.checkpoint import NAMES, avatar_from_checkpoint, read_checkpoint, write_checkpoint
from manvatar.exporting.avatarmav.folder import (
    Export,
    folder_clip,
    folder_config,
    folder_track,
    read_folder,
    write_folder,
)
from manvatar.exporting.avatarmav.parameters import FrameParameters, read_parameters, write_parameters

__all__ = [
    "NAMES",
    "Export",
    "FrameParameters",
    "avatar_from_checkpoint",
    "density_scale_per_m",
    "folder_clip",
    "folder_config",
    "folder_track",
    "from_released",
    "read_checkpoint",
    "read_folder",
    "read_parameters",
    "refitted_poses",
    "released_camera",
    "released_near_far",
    "scale_at_distance",
    "to_released",
    "write_checkpoint",
    "write_folder",
    "write_parameters",
]
