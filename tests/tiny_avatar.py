"""Small avatars: a coloured ball that the coefficients shift, whose images are known exactly; and a dataset of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from manvatar.avatars import Avatar, make_header, rgba8, turned
from manvatar.fields import FIELDS, FastField, FastFieldConfig
from manvatar.rendering import MarchConfig, OccupancyGrid
from manvatar.types import Box, Camera, Dataset, FieldAtExpressions, FieldValues

NAMES = ("jawOpen", "eyeBlinkLeft", "mouthSmile")
BOX = Box(torch.tensor([-0.1, -0.11, -0.12]), torch.tensor([0.1, 0.11, 0.08]))
MARCH = MarchConfig(step_m=0.006)
CELL_M = 0.02
SHIFT_M = ((0.0, -0.005, 0.0), (-0.002, 0.0, 0.0), (0.0, 0.0, -0.001))  # of the ball, per coefficient


@dataclass(frozen=True)
class BallConfig:
    radius_m: float = 0.06
    edge_m: float = 0.004


class BallField(nn.Module):
    """A ball around (0, 0, -2 cm); its colour depends on where in the box a point is."""

    def __init__(self, config: BallConfig, box: Box, expression_count: int) -> None:
        super().__init__()
        self.config = config
        self.shift_m = nn.Parameter(torch.tensor(SHIFT_M)[:expression_count])
        self.color = nn.Parameter(torch.eye(3) * 25)
        self.register_buffer("center_m", torch.tensor([0.0, 0.0, -0.02]))

    def at(self, expression: torch.Tensor, cam_from_head: torch.Tensor | None = None) -> FieldAtExpressions:
        center = self.center_m + expression @ self.shift_m

        def values(points_m: torch.Tensor, directions: torch.Tensor, frame: torch.Tensor) -> FieldValues:
            inside = self.config.radius_m - (points_m - center[frame]).norm(dim=-1)
            return FieldValues(500 * torch.sigmoid(inside / self.config.edge_m), torch.sigmoid(points_m @ self.color))

        return values


FIELDS["ball"] = (BallField, BallConfig)


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
        surface_m=torch.zeros(1, 3),
        bounds=BOX,
        clip_frame=rows * 2,
        train=rows[: frames - held_out],
        held_out=rows[frames - held_out :],
        frame_rate_hz=25.0,
    )


def tiny_avatar(dataset: Dataset | None = None) -> Avatar:
    """The ball."""
    return _avatar("ball", BallConfig(), dataset or tiny_dataset())


def fast_avatar() -> Avatar:
    """The field users get, small and untrained: its images mean nothing."""
    config = FastFieldConfig(motion_voxel_m=0.05, canonical_voxels_m=(0.02,), canonical_features=(4,), hidden=8)
    avatar = _avatar("fast", config, tiny_dataset())
    assert isinstance(avatar.field, FastField)
    with torch.no_grad():
        avatar.field.motion_basis.normal_()
    return avatar


def _avatar(name: str, config: BallConfig | FastFieldConfig, dataset: Dataset) -> Avatar:
    field = FIELDS[name][0](config, BOX, len(NAMES))
    occupancy = OccupancyGrid(BOX, CELL_M)
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        occupancy.update(field, dataset.expression, generator, decay=1.0)
    header = make_header(
        dataset,
        preset="tiny",
        field_name=name,
        field_config=config,
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
