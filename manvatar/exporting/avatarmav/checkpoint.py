"""Checkpoints of AvatarMAV's released code (``headnerf_latest``: a state dict) and our ``paper`` field."""

from __future__ import annotations

import dataclasses
import json
import logging
import pickle
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor

import manvatar
from manvatar.avatars import FORMAT_VERSION, Avatar
from manvatar.errors import UserError
from manvatar.exporting.avatarmav.camera import density_scale_per_m, from_released, released_camera
from manvatar.exporting.avatarmav.parameters import FACE_MODEL, FrameParameters, expression_names
from manvatar.fields import PaperField, PaperFieldConfig
from manvatar.files import replacing
from manvatar.geometry import mean_pose
from manvatar.rendering import MarchConfig, OccupancyGrid
from manvatar.types import AvatarHeader

logger = logging.getLogger(__name__)

# Their name of a tensor -> ours.
NAMES = {
    "deform_bs_volume": "motion_basis",
    "deform_mean_volume": "motion_mean",
    "feature_volume": "canonical",
} | {
    f"{theirs}_linear.layers.{layer}.{part}": f"{ours}.{place}.{part}"
    for theirs, ours in (("deform", "displacement"), ("density", "density"), ("color", "color"))
    for layer, place in ((0, "hidden"), (2, "out"))
    for part in ("weight", "bias")
}
_SCALE = 0.1  # of frames nobody has told us about: heads are life-size in metres then
_OCCUPANCY_CELL_M = 0.008
_SAMPLES_PER_RAY = 64


def read_checkpoint(path: str | Path) -> tuple[PaperFieldConfig, dict[str, Tensor]]:
    """A released checkpoint as the settings of a ``paper`` field and its tensors; nothing in the file is executed.

    Sizes come from the tensors; boxes, which a checkpoint does not hold, are those of the released settings. Sampling
    is the released one.

    Raises:
        UserError: no such file, or it is no such checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"no such file: {path}; give a checkpoint of AvatarMAV (headnerf_latest)") from error
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} cannot be read as a checkpoint; give AvatarMAV's headnerf_latest") from error
    missing = sorted(set(NAMES) - set(state)) if isinstance(state, dict) else sorted(NAMES)
    if missing:
        raise UserError(f"{path} is not a checkpoint of AvatarMAV: it lacks {', '.join(missing[:3])}")
    tensors = {ours: state[theirs].float() for theirs, ours in NAMES.items()}
    try:
        config = _config_of(tensors)
        PaperField(config, config.box(), config.expressions).load_state_dict(tensors)
    except (UserError, RuntimeError, ValueError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the tensors of {path} do not fit together ({reason}); is it AvatarMAV's?") from error
    return config, tensors


def avatar_from_checkpoint(path: str | Path, parameters: FrameParameters | None = None, size_px: int = 512) -> Avatar:
    """An avatar that renders what the released code renders from a checkpoint.

    Rays that miss the head's box are empty here, while the released code samples them at a fixed distance; a
    checkpoint that has been trained is empty there as well.

    Args:
        parameters: of the frames it was trained on: their mean pose and range of expressions become the avatar's, and
            the scale of densities is theirs. None = 40 cm of world in front of the camera, coefficients within +-3.
        size_px: of the default view.

    Raises:
        UserError: see :func:`read_checkpoint`.
    """
    config, tensors = read_checkpoint(path)
    if parameters is None:
        bound = torch.full((1, config.expressions), 3.0)
        parameters = FrameParameters(torch.zeros(2, 6), torch.full((2,), _SCALE), torch.cat([-bound, bound]))
    scale = float(parameters.scale.median())
    config = dataclasses.replace(config, density_scale_per_m=density_scale_per_m(scale, config.unit_m))
    field = PaperField(config, config.box(), config.expressions)
    field.load_state_dict(tensors)
    return Avatar(_header(Path(path), config, parameters, size_px), field, OccupancyGrid(field.box, _OCCUPANCY_CELL_M))


def write_checkpoint(avatar: Avatar, path: str | Path, scale: float = _SCALE) -> None:
    """Write the weights of a ``paper`` avatar as a checkpoint that the released code loads.

    Args:
        scale: of the frames it will be rendered with there; densities are adapted to it, which is exact.

    Raises:
        UserError: the avatar's field is another one, its boxes are not the released ones, or the file cannot be
            written.
    """
    field = avatar.field
    if not isinstance(field, PaperField):
        raise UserError(
            f"this avatar was made with the field {avatar.header.field_name!r}; AvatarMAV's code can only use 'paper'"
        )
    if _boxes(field.config) != _boxes(PaperFieldConfig()):
        raise UserError("this avatar has boxes of its own, which AvatarMAV's checkpoints cannot hold")
    if field.config.exact_sampling:
        logger.warning(
            "this avatar samples its grids exactly, AvatarMAV's code does not: pictures will be slightly displaced; "
            "train with exact_sampling = false in [field] to avoid that"
        )
    ours = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in field.state_dict().items()}
    # The density is rectified after its last layer, so a factor may be moved into it.
    factor = field.config.density_scale_per_m / density_scale_per_m(scale, field.config.unit_m)
    for part in ("weight", "bias"):
        ours[f"density.out.{part}"] *= factor
    with replacing(path) as temporary:
        torch.save(OrderedDict((theirs, ours[name]) for theirs, name in NAMES.items()), temporary)


def _config_of(tensors: dict[str, Tensor]) -> PaperFieldConfig:
    """Sizes of a field from its tensors."""
    expressions, motion_features, nodes = tensors["motion_basis"].shape[:3]
    canonical_features, canonical_nodes = tensors["canonical"].shape[:2]
    inputs = {name: tensors[f"{name}.hidden.weight"].shape[1] for name in ("displacement", "density", "color")}
    terms = (inputs["color"] - inputs["density"]) // 3  # both see features and expression, the color the view as well
    return PaperFieldConfig(
        expressions=expressions,
        motion_cells=nodes - 1,
        motion_features=motion_features,
        canonical_cells=canonical_nodes - 1,
        canonical_features=canonical_features,
        levels=inputs["displacement"] // (motion_features * terms),
        octaves=(terms - 1) // 2,
        hidden=tensors["density.hidden.weight"].shape[0],
        exact_sampling=False,
    )


def _boxes(config: PaperFieldConfig) -> tuple:
    return config.motion_lower, config.motion_upper, config.canonical_lower, config.canonical_upper


def _header(path: Path, config: PaperFieldConfig, parameters: FrameParameters, size_px: int) -> AvatarHeader:
    poses = from_released(parameters.pose, parameters.scale, config)
    shown = parameters.expression[:, : config.expressions]
    camera, box = released_camera(size_px), config.box()
    return AvatarHeader(
        format_version=FORMAT_VERSION,
        created_with=f"manvatar {manvatar.__version__}",
        preset="paper",
        field_name="paper",
        field=json.loads(json.dumps(dataclasses.asdict(config))),  # as a file gives it back
        march=dataclasses.asdict(MarchConfig(samples_per_ray=_SAMPLES_PER_RAY)),
        occupancy_cell_m=_OCCUPANCY_CELL_M,
        bounds_lower_m=tuple(box.lower_m.tolist()),
        bounds_upper_m=tuple(box.upper_m.tolist()),
        face_model=FACE_MODEL,
        expression_names=expression_names(config.expressions),
        expression_lower=tuple(shown.amin(0).tolist()),
        expression_upper=tuple(shown.amax(0).tolist()),
        camera_focal_px=tuple(camera.focal_px.tolist()),
        camera_center_px=tuple(camera.center_px.tolist()),
        camera_size_px=camera.size_px,
        cam_from_head=tuple(tuple(row) for row in mean_pose(poses).tolist()),
        provenance={"checkpoint": path.name, "made_by": "AvatarMAV", "synthetic": True},
    )
