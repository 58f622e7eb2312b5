"""A small avatar made by hand: a coloured ball that the first coefficient shifts, and a dataset rendered from it."""

from __future__ import annotations

import math

import torch

from manvatar.avatars import Avatar, make_header, rgba8, turned
from manvatar.fields import FastField, FastFieldConfig
from manvatar.rendering import MarchConfig, OccupancyGrid
from manvatar.types import Box, Camera, Dataset

NAMES = ("jawOpen", "eyeBlinkLeft", "mouthSmile")
BOX = Box(torch.tensor([-0.1, -0.11, -0.12]), torch.tensor([0.1, 0.11, 0.08]))
CONFIG = FastFieldConfig(motion_voxel_m=0.05, canonical_voxels_m=(0.02,), canonical_features=(4,), hidden=8)
MARCH = MarchConfig(step_m=0.006)
CELL_M = 0.02


def ball_field() -> FastField:
    """Feature 0 of the only level is positive inside a ball of 6 cm; the others are its colour, which varies."""
    field = FastField(CONFIG, BOX, len(NAMES))
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.zero_()
        _, z_nodes, y_nodes, x_nodes, _ = field.canonical[0].shape
        axes = [torch.linspace(0, 1, n) for n in (z_nodes, y_nodes, x_nodes)]
        unit = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], -1)
        points = BOX.lower_m + unit * (BOX.upper_m - BOX.lower_m)
        center = torch.tensor([0.0, 0.0, -0.02])
        inside = (0.06 - (points - center).norm(dim=-1)) / 0.02
        field.canonical[0][0] = torch.cat([inside[..., None], 4 * unit - 2], -1)
        field.density_hidden.weight[0, 0] = 1
        field.density_out.weight[0, 0] = 6
        field.density_out.bias[0] = -6  # nearly empty outside
        field.color_hidden.weight[:3, 1:4] = torch.eye(3)
        field.color_hidden.bias[:3] = 3  # keeps the leaky unit in its linear part
        field.color_out.weight[:, :3] = torch.eye(3)
        field.color_out.bias[:] = -3
        # A displacement of the lookup by +y moves what is seen by -y.
        field.motion_basis[0, ..., 1] = 0.5
        field.motion_basis[1, ..., 0] = 0.2
        field.motion_basis[2, ..., 2] = 0.1
    return field


def tiny_camera(size: int = 48) -> Camera:
    return Camera(torch.tensor([2.4 * size, 2.4 * size]), torch.tensor([size / 2, size / 2]), (size, size))


def front_pose() -> torch.Tensor:
    """The head half a metre before the camera, upright, facing it."""
    pose = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    pose[2, 3] = 0.5
    return pose


def tiny_dataset(frames: int = 12, held_out: int = 4, size: int = 48) -> Dataset:
    """Poses and expressions that vary smoothly; images are empty, see :func:`rendered`."""
    phase = torch.linspace(0, 2 * math.pi, frames + 1)[:-1]
    expression = torch.stack([phase.sin() * 2, phase.cos(), 0.5 * (2 * phase).sin()], -1)
    poses = turned(front_pose().expand(frames, 4, 4), 0.2 * phase.sin(), 0.1 * phase.cos())
    landmarks = torch.zeros(frames, 68, 2)
    turn = torch.linspace(0, 2 * math.pi, 21)[:-1]
    landmarks[:, 48:68] = torch.stack([24 + 6 * turn.cos(), 34 + 3 * turn.sin()], -1)
    eye = torch.linspace(0, 2 * math.pi, 7)[:-1]
    landmarks[:, 36:42] = torch.stack([16 + 3 * eye.cos(), 18 + 2 * eye.sin()], -1)
    landmarks[:, 42:48] = torch.stack([32 + 3 * eye.cos(), 18 + 2 * eye.sin()], -1)
    rows = torch.arange(frames)
    return Dataset(
        images=torch.zeros(frames, size, size, 4, dtype=torch.uint8),
        camera=tiny_camera(size),
        cam_from_head=poses,
        expression=expression,
        landmarks_px=landmarks * (size / 48),
        bounds=BOX,
        clip_frame=rows * 2,
        train=rows[: frames - held_out],
        held_out=rows[frames - held_out :],
        frame_rate_hz=25.0,
    )


def tiny_avatar(dataset: Dataset | None = None) -> Avatar:
    dataset = tiny_dataset() if dataset is None else dataset
    field = ball_field()
    occupancy = OccupancyGrid(BOX, CELL_M)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        occupancy.update(field, dataset.expression, generator)
    header = make_header(
        dataset,
        preset="tiny",
        field_name="fast",
        field_config=CONFIG,
        march=MARCH,
        occupancy_cell_m=CELL_M,
        face_model="builtin-1",
        expression_names=NAMES,
        training={"iterations": 0, "seed": 0},
        provenance={"clip": "made by hand"},
    )
    return Avatar(header, field, occupancy)


def rendered(avatar: Avatar, dataset: Dataset) -> Dataset:
    """The dataset with its images filled by the avatar."""
    for row in range(len(dataset.images)):
        rendering = avatar.rendering(dataset.expression[row], dataset.cam_from_head[row], dataset.camera)
        dataset.images[row] = rgba8(rendering)
    return dataset
