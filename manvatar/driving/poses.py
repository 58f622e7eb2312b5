"""Head poses from files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from manvatar.avatars.poses import turned
from manvatar.driving.coefficients import POSE_NAMES
from manvatar.driving.tables import read_table
from manvatar.driving.timing import sampled_evenly, stated_times
from manvatar.errors import UserError
from manvatar.geometry import rigid, rotation_from_vector
from manvatar.tracking.files import load_track


@dataclass(frozen=True)
class Poses:
    """Head poses over time, evenly spaced."""

    cam_from_head: Float[Tensor, "frames 4 4"]
    frame_rate_hz: float | None  # None = the file does not say


def read_poses(path: str | Path, default_pose: Float[Tensor, "4 4"]) -> Poses:
    """Head poses for an avatar whose default pose is ``default_pose`` (``cam_from_head``; metres).

    The file (see :mod:`manvatar.driving.tables`) holds one of

    * ``cam_from_head``: (frames, 4, 4) or (4, 4), rigid, metres;
    * ``rotation_vector``: (frames, 3) axis times angle in radians, the rotation of ``cam_from_head``, and, if wanted,
      ``translation_m``: (frames, 3); without it the head stays where the default pose has it;
    * ``yaw_rad``, ``pitch_rad``, ``roll_rad``: (frames,), any of them; turns about the neck away from the default pose.

    A track (.safetensors) is read too: its rotations, and its movement about where the default pose has the head,
    since its camera is another one. Other entries of the file are passed over.

    Raises:
        UserError: a file that cannot be read, none of these entries, or shapes and matrices that do not fit.
    """
    source = Path(path)
    pose = default_pose.float()
    if source.suffix.lower() == ".safetensors":
        track = load_track(source)
        moved = track.cam_from_head.float().clone()
        moved[:, :3, 3] += pose[:3, 3] - moved[:, :3, 3].median(0).values
        return Poses(moved, track.frame_rate_hz)
    table = read_table(source)
    if "cam_from_head" in table:
        poses = _matrices(table["cam_from_head"], source)
    elif "rotation_vector" in table:
        poses = _from_vectors(table, pose, source)
    elif angles := [name for name in ("yaw_rad", "pitch_rad", "roll_rad") if name in table]:
        columns = {name: torch.from_numpy(_column(table[name], name, source)) for name in angles}
        frames = max(len(column) for column in columns.values())
        if any(len(column) != frames for column in columns.values()):
            raise UserError(f"{', '.join(angles)} in {source} have different lengths; mend the file")
        poses = turned(pose.expand(frames, 4, 4), **columns)
    else:
        raise UserError(f"{source} has no head poses; give one of {', '.join(POSE_NAMES)}")
    times_s, rate = stated_times(table, len(poses), source)
    if times_s is not None:
        poses, rate = sampled_evenly(poses, times_s)
    return Poses(poses, rate)


def _matrices(array: np.ndarray, source: Path) -> Float[Tensor, "frames 4 4"]:
    array = array[None] if array.shape == (4, 4) else array
    if array.ndim != 3 or array.shape[1:] != (4, 4) or array.dtype.kind != "f" or len(array) == 0:
        raise UserError(
            f"cam_from_head in {source} has shape {array.shape}, but (frames, 4, 4) is needed; mend the file"
        )
    poses = torch.from_numpy(array).float()
    rotation = poses[:, :3, :3]
    error = (rotation @ rotation.transpose(1, 2) - torch.eye(3)).abs().amax((1, 2))
    error = torch.maximum(error, (poses[:, 3] - torch.tensor([0.0, 0.0, 0.0, 1.0])).abs().amax(1))
    wrong = ((error > 1e-3) | (torch.linalg.det(rotation) < 0)).nonzero()[:, 0]
    if len(wrong):
        raise UserError(
            f"cam_from_head in {source} is not a rotation and a translation in frame {int(wrong[0])}; mend the file"
        )
    return poses


def _from_vectors(
    table: dict[str, np.ndarray], pose: Float[Tensor, "4 4"], source: Path
) -> Float[Tensor, "frames 4 4"]:
    vectors = _triples(table["rotation_vector"], "rotation_vector", source)
    if "translation_m" not in table:
        return rigid(rotation_from_vector(vectors), pose[:3, 3].expand(len(vectors), 3))
    translation_m = _triples(table["translation_m"], "translation_m", source)
    if len(translation_m) != len(vectors):
        raise UserError(f"rotation_vector and translation_m in {source} have different lengths; mend the file")
    return rigid(rotation_from_vector(vectors), translation_m)


def _triples(array: np.ndarray, name: str, source: Path) -> Float[Tensor, "frames 3"]:
    array = np.atleast_2d(array)
    if array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind != "f":
        raise UserError(f"{name} in {source} has shape {array.shape}, but (frames, 3) is needed; mend the file")
    return torch.from_numpy(array).float()


def _column(array: np.ndarray, name: str, source: Path) -> np.ndarray:
    array = np.atleast_1d(array)
    if array.ndim != 1 or array.dtype.kind != "f" or len(array) == 0:
        raise UserError(f"{name} in {source} has shape {array.shape}, but one number for each frame is needed")
    return array.astype(np.float32)
