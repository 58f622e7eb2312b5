"""What AvatarMAV's released code knows of each frame besides its picture: ``params/params_%05d.npz``."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from manvatar.errors import UserError
from manvatar.files import replacing

FACE_MODEL = "bfm2009-front"  # whose coefficients the authors' data follow
EXPRESSION_COUNT, _IDENTITY_COUNT = 64, 80  # as the authors' face fitting writes them


def expression_names(count: int) -> tuple[str, ...]:
    """The Basel model numbers its modes; so do we."""
    return tuple(f"bfm_exp_{index:02d}" for index in range(count))


@dataclass(frozen=True)
class FrameParameters:
    """Pose, scale and expression of each frame, in the released code's terms (:mod:`.camera`)."""

    pose: Float[Tensor, "frames 6"]  # rotation vector, translation in world units
    scale: Float[Tensor, "frames"]
    expression: Float[Tensor, "frames expression"]  # standard deviations of the Basel model


def parameters_path(folder: Path, index: int) -> Path:
    return folder / "params" / f"params_{index:05d}.npz"


def write_parameters(folder: Path, parameters: FrameParameters) -> None:
    """Write one file for each frame, numbered from 0; coefficients are cut or filled with zeros to 64."""
    count = min(parameters.expression.shape[1], EXPRESSION_COUNT)
    for index in range(len(parameters.pose)):
        expression = np.zeros((1, EXPRESSION_COUNT), np.float32)
        expression[0, :count] = parameters.expression[index, :count].numpy()
        with replacing(parameters_path(folder, index)) as temporary:
            np.savez(
                temporary,
                pose=parameters.pose[index : index + 1].float().numpy(),
                scale=parameters.scale[index : index + 1].float().numpy(),
                exp_coeff=expression,
                id_coeff=np.zeros((1, _IDENTITY_COUNT), np.float32),
            )


def read_parameters(folder: Path) -> FrameParameters:
    """All frames of a folder, in order.

    Raises:
        UserError: there are none, one is missing, or one does not hold what it should.
    """
    count = len(list((folder / "params").glob("params_*.npz")))
    if count == 0:
        raise UserError(f"{folder} holds no params/params_00000.npz; give a dataset folder of AvatarMAV")
    frames = [_one(parameters_path(folder, index)) for index in range(count)]
    lengths = {len(expression) for _, _, expression in frames}
    if len(lengths) > 1:
        raise UserError(f"the frames of {folder} have different numbers of coefficients: {sorted(lengths)}")
    pose, scale, expression = (torch.stack(part) for part in zip(*frames, strict=True))
    return FrameParameters(pose, scale, expression)


def _one(path: Path) -> tuple[Tensor, Tensor, Tensor]:
    if not path.is_file():
        raise UserError(f"{path} is missing; frames are numbered from 0 without gaps")
    try:
        with np.load(path, allow_pickle=False) as file:
            pose, scale, expression = (torch.from_numpy(file[k]).float() for k in ("pose", "scale", "exp_coeff"))
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a parameter file of AvatarMAV ({error}); copy it again") from error
    if pose.numel() != 6 or scale.numel() != 1 or expression.ndim != 2 or len(expression) != 1:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (pose, scale, expression))
        raise UserError(f"{path} has pose, scale and exp_coeff of shapes {shapes}, expected (1, 6), (1,) and (1, 64)")
    values = pose.flatten(), scale.flatten()[0], expression[0]
    if not all(bool(value.isfinite().all()) for value in values) or not float(scale) > 0:
        raise UserError(f"{path} holds numbers that are not finite, or a scale that is not positive")
    return values
