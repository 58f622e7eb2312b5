"""Basel Face Model 2009, front of the face with expressions: ``BFM_model_front.mat`` or ``BFM09_model_info.mat``.

One MATLAB file that users make from the original model with the conversion of Deep3DFaceReconstruction (Deng et al.,
"Accurate 3D Face Reconstruction with Weakly-Supervised Learning", CVPRW 2019), called ``BFM_model_front.mat`` there and
``BFM09_model_info.mat`` by 3DMM-Fitting-Pytorch and Multiview-3DMM-Fitting: ``meanshape`` (1, 107127), ``idBase``
(107127, 80), ``exBase`` (107127, 64), ``tri`` (70789, 3) and ``keypoints`` (1, 68), both from 1. Decimetres. The bases
are multiplied by their standard deviations already.

Coefficients: identity 0 ... 79, expression 0 ... 31 of 64, in the order of the file, in standard deviations:
AvatarMAV's ``id_coeff`` and the entries of ``exp_coeff`` that it uses. Its vertices have their mean at the origin;
those here have the midpoint of the eye corners there, which is a shift by ``mean_m.mean(0)``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from manvatar.errors import UserError
from manvatar.face_models.assembly import (
    EXPRESSION_COUNT,
    IDENTITY_COUNT,
    Shapes,
    assemble,
    checked_triangles,
    columns_as_modes,
    vertex_embedding,
)
from manvatar.face_models.matlab import read, variables
from manvatar.types import FaceModel

NAMES = ("BFM_model_front.mat", "BFM09_model_info.mat")
KEYS = ("meanshape", "idBase", "exBase", "tri", "keypoints")
ACCEPTED = f"{NAMES[0]} or {NAMES[1]}"
METRES_PER_UNIT = 0.1


def accepts(path: Path) -> bool:
    """Whether ``path`` is such a file (by its contents), or a folder that holds one."""
    if path.is_dir():
        return any((path / name).is_file() for name in NAMES)
    return {"meanshape", "idBase", "exBase"} <= variables(path)


def part_of(path: Path) -> str | None:
    """What to do with a file that is only a part of this model; None for anything else."""
    if path.is_file() and {"keypoints", "tri"} <= variables(path):
        return (
            f"it holds triangles and landmarks for {NAMES[0]} but no shapes; make that file from the Basel Face Model "
            "2009 (University of Basel) with the conversion of the Deep3DFaceReconstruction project"
        )
    return None


def load(path: Path, identity_count: int = IDENTITY_COUNT, expression_count: int = EXPRESSION_COUNT) -> FaceModel:
    """Read the file, or that of a folder.

    Raises:
        UserError: the file is damaged or lacks a variable; the message says which.
    """
    file = next(path / name for name in NAMES if (path / name).is_file()) if path.is_dir() else path
    try:
        data = read(file, KEYS)
        mean = np.asarray(data["meanshape"], np.float64).reshape(-1, 3)
        identity = columns_as_modes(data["idBase"][:, :identity_count])
        expression = columns_as_modes(data["exBase"][:, :expression_count])
        if identity.shape[1:] != mean.shape or expression.shape[1:] != mean.shape:
            raise ValueError(
                f"{len(mean)} vertices in meanshape, {identity.shape[1]} and {expression.shape[1]} in the bases"
            )
        triangles = checked_triangles(data["tri"].astype(np.int64) - 1, len(mean))
        names = tuple(f"bfm_exp_{k:02d}" for k in range(len(expression)))
        shapes = Shapes("bfm2009-front", mean, identity, expression, names, triangles, METRES_PER_UNIT)
        return assemble(shapes, vertex_embedding(data["keypoints"].ravel().astype(np.int64) - 1, triangles))
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read the front of the Basel Face Model 2009 in {file}: {error}; make the file again with the "
            "conversion of the Deep3DFaceReconstruction project"
        ) from error
