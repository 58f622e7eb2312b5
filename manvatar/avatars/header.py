"""What an avatar says about itself."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

import manvatar
from manvatar.avatars.files import FORMAT_VERSION
from manvatar.geometry import mean_pose
from manvatar.rendering import MarchConfig
from manvatar.types import AvatarHeader, Box, Camera, Dataset


def make_header(
    dataset: Dataset,
    *,
    preset: str,
    field_name: str,
    field_config: Any,
    march: MarchConfig,
    occupancy_cell_m: float,
    face_model: str,
    expression_names: tuple[str, ...],
    clip_first_frame: int = 0,
    training: dict[str, Any] | None = None,
    scores: dict[str, Any] | None = None,
    provenance: dict[str, Any] | None = None,
    arkit: Float[Tensor, "52 expression"] | None = None,
) -> AvatarHeader:
    """The header of an avatar trained on ``dataset``.

    The default pose is the mean over the training frames, the default camera that of the crop, and the expression
    range what the training frames show.

    Args:
        field_config: the dataclass the field was made with.
        clip_first_frame: where the clip starts in its video file (``Clip.first_frame``).
        training: plain values (what JSON can hold), as are ``scores`` and ``provenance``. The frames of the video file
            that were held out and the mark that the avatar is synthetic are added here.
        arkit: the coefficients of each of Apple's blendshapes at full activation, where they are known.
    """
    shown = dataset.expression[dataset.train]
    lower, upper = shown.amin(0), shown.amax(0)
    camera = dataset.camera
    held_out = (dataset.clip_frame[dataset.held_out] + clip_first_frame).tolist()
    return AvatarHeader(
        format_version=FORMAT_VERSION,
        created_with=f"manvatar {manvatar.__version__}",
        preset=preset,
        field_name=field_name,
        field=_plain(dataclasses.asdict(field_config)),
        march=_plain(dataclasses.asdict(march)),
        occupancy_cell_m=occupancy_cell_m,
        bounds_lower_m=tuple(dataset.bounds.lower_m.tolist()),
        bounds_upper_m=tuple(dataset.bounds.upper_m.tolist()),
        face_model=face_model,
        expression_names=tuple(expression_names),
        expression_lower=tuple(lower.tolist()),
        expression_upper=tuple(upper.tolist()),
        camera_focal_px=tuple(camera.focal_px.tolist()),
        camera_center_px=tuple(camera.center_px.tolist()),
        camera_size_px=tuple(camera.size_px),
        cam_from_head=tuple(tuple(row) for row in mean_pose(dataset.cam_from_head[dataset.train]).tolist()),
        training=_plain({**(training or {}), "held_out_frames": held_out}),
        scores=_plain(scores or {}),
        provenance=_plain({**(provenance or {}), "synthetic": True}),
        arkit=() if arkit is None else tuple(tuple(round(v, 4) for v in row) for row in arkit.tolist()),
    )


def header_box(header: AvatarHeader) -> Box:
    """The box of the head frame that the field fills."""
    return Box(torch.tensor(header.bounds_lower_m), torch.tensor(header.bounds_upper_m))


def header_camera(header: AvatarHeader) -> Camera:
    """The camera of the training crop."""
    return Camera(torch.tensor(header.camera_focal_px), torch.tensor(header.camera_center_px), header.camera_size_px)


def fitted_camera(camera: Camera, size_px: int | tuple[int, int]) -> Camera:
    """The camera of an image of another size that shows all of the same view, centred; pixels stay square.

    Args:
        size_px: (width, height), or one number for both.
    """
    width, height = (size_px, size_px) if isinstance(size_px, int) else size_px
    old_width, old_height = camera.size_px
    scale = min(width / old_width, height / old_height)
    border = torch.tensor([width - old_width * scale, height - old_height * scale]) / 2
    return Camera(camera.focal_px * scale, camera.center_px * scale + border.to(camera.center_px), (width, height))


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives it back, so that a header read equals the header written."""
    return json.loads(json.dumps(value, allow_nan=False))
