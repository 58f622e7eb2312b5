"""Basel Face Model 2017 and 2019 (University of Basel): statismo ``.h5`` files, all croppings.

Gerig et al., "Morphable Face Models - An Open Framework", FG 2018. In ``shape``, ``color`` and ``expression`` each:
``model/mean`` (3V,), ``model/pcaBasis`` (3V, N) orthonormal, ``model/pcaVariance`` (N,), ``representer/cells`` (3, T)
from 0, counter-clockwise. Millimetres; axes as in the head frame. N = 199 identities and 100 expressions.

* Mean: ``shape/model/mean`` plus ``expression/model/mean``, which is what these files mean by zero coefficients. The
  expression mean is not zero (the mean of all scanned expressions), so zero is not quite a neutral face.
* Coefficients: identity 0 ... 79, expression 0 ... 31, in the order of the file, in standard deviations: a basis column
  times the root of its variance. Programs that use the columns alone have coefficients that are larger by that root.
* Landmarks: ``metadata/landmarks/json``, a list of ``{"id", "coordinates"}`` on the neutral mean, as text, bytes or an
  int8 array. The points named below are used; jaw line and the rest of the 68 are completed
  (:mod:`manvatar.face_models.completion`).
"""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
from scipy.spatial import cKDTree

from manvatar.errors import UserError
from manvatar.face_models.assembly import (
    EXPRESSION_COUNT,
    IDENTITY_COUNT,
    Shapes,
    assemble,
    checked_triangles,
    columns_as_modes,
)
from manvatar.face_models.completion import complete
from manvatar.types import FaceModel

ACCEPTED = "a .h5 file such as model2017-1_face12_nomouth.h5 or model2019_fullHead.h5"
METRES_PER_UNIT = 1e-3
SIGNATURE = b"\x89HDF\r\n\x1a\n"

# Vertices -> id. The last word is the cropping in the file's own name.
TOPOLOGIES = {
    53149: "bfm2017-bfm",
    28588: "bfm2017-face12",
    47439: "bfm2019-bfm",
    27657: "bfm2019-face12",
    58203: "bfm2019-fullhead",
}

# Names in the files -> the iBUG-68 landmark they are, or those they are in the middle of. Names for the same one (lower
# and upper edge of a brow) are averaged.
_CENTRE = {
    "center.chin.tip": (8,),
    "center.nose.tip": (30,),
    "center.nose.attachement_to_philtrum": (33,),
    "center.lips.upper.outer": (51,),
    "center.lips.lower.outer": (57,),
    "center.lips.upper.inner": (62,),
    "center.lips.lower.inner": (66,),
}
_SIDES = {  # name without its side: (right, left)
    "eyebrow.bend.lower": ((18,), (25,)),
    "eyebrow.bend.upper": ((18,), (25,)),
    "eyebrow.inner_lower": ((20,), (23,)),
    "eyebrow.inner_upper": ((20,), (23,)),
    "eye.corner_outer": ((36,), (45,)),
    "eye.corner_inner": ((39,), (42,)),
    "eye.top": ((37, 38), (43, 44)),
    "eye.bottom": ((40, 41), (46, 47)),
    "nose.wing.tip": ((31,), (35,)),
    "nose.hole.center": ((32,), (34,)),
    "lips.corner": ((48,), (54,)),
    "lips.philtrum_ridge": ((50,), (52,)),
}
LANDMARK_NAMES: dict[str, tuple[int, ...]] = {
    **_CENTRE,
    **{f"right.{name}": sides[0] for name, sides in _SIDES.items()},
    **{f"left.{name}": sides[1] for name, sides in _SIDES.items()},
}
NEEDED = tuple(f"{side}.eye.corner_{end}" for side in ("right", "left") for end in ("outer", "inner"))
FAR_M = 0.01  # a named point further from every vertex was cropped away with its part of the face


def accepts(path: Path) -> bool:
    """Whether ``path`` is an HDF5 file with a shape model, or a folder with exactly one ``.h5`` file that is."""
    if path.is_dir():
        files = _files(path)
        return len(files) == 1 and _has_shape(files[0])
    return _has_shape(path)


def part_of(path: Path) -> str | None:
    """What to do with a folder of several models; None for anything else."""
    if path.is_dir() and len(files := _files(path)) > 1:
        return f"it holds {len(files)} Basel models ({', '.join(file.name for file in files)}); name one of them"
    return None


def load(path: Path, identity_count: int = IDENTITY_COUNT, expression_count: int = EXPRESSION_COUNT) -> FaceModel:
    """Read the file, or the one of a folder.

    Raises:
        UserError: the file is damaged, or lacks expressions or landmarks; the message says which.
    """
    file = _files(path)[0] if path.is_dir() else path
    try:
        with h5py.File(file, "r") as data:
            return _face_model(data, identity_count, expression_count)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).strip("'\"")
        raise UserError(f"cannot read the Basel Face Model in {file}: {reason}; expected {ACCEPTED}") from error


def landmarks_of(data: h5py.File) -> dict[str, np.ndarray]:
    """Name -> position (3,) in the file's unit, from ``metadata/landmarks/json``; empty when there is none."""
    if "metadata/landmarks/json" not in data:
        return {}
    value = np.asarray(data["metadata/landmarks/json"][()])
    if value.dtype.kind in "iu":
        text = value.astype(np.uint8).tobytes()
    else:
        first = value.ravel()[0]
        text = first if isinstance(first, bytes) else str(first).encode()
    points = json.loads(text.rstrip(b"\x00"))
    return {str(point["id"]): np.asarray(point["coordinates"], np.float64) for point in points}


def _face_model(data: h5py.File, identity_count: int, expression_count: int) -> FaceModel:
    neutral = _read(data, "shape/model/mean").astype(np.float64).reshape(-1, 3)
    if "expression/model/pcaBasis" not in data:
        raise ValueError(
            f"it has a shape of {len(neutral)} vertices but no expression model; the files of 2017 and 2019 have one"
        )
    identity = _modes(data["shape/model"], identity_count)
    expression = _modes(data["expression/model"], expression_count)
    if identity.shape[1:] != neutral.shape or expression.shape[1:] != neutral.shape:
        raise ValueError(f"shape and expression disagree: {identity.shape[1]} and {expression.shape[1]} vertices")
    cells = _read(data, "shape/representer/cells")
    triangles = checked_triangles(cells.T if cells.shape[0] == 3 else cells, len(neutral))
    mean = neutral + _read(data, "expression/model/mean").astype(np.float64).reshape(-1, 3)
    names = tuple(f"bfm_exp_{k:02d}" for k in range(len(expression)))
    name = TOPOLOGIES.get(len(neutral), f"basel-{len(neutral)}")
    known = _known(landmarks_of(data), neutral)
    embedding = complete(known, neutral * METRES_PER_UNIT, triangles, expression * METRES_PER_UNIT)
    return assemble(Shapes(name, mean, identity, expression, names, triangles, METRES_PER_UNIT), embedding)


def _known(landmarks: dict[str, np.ndarray], neutral: np.ndarray) -> dict[tuple[int, ...], np.ndarray]:
    """The named points that are on the mesh, in metres."""
    lacking = [name for name in NEEDED if name not in landmarks]
    if lacking:
        raise ValueError(f"its metadata/landmarks/json names {len(landmarks)} points, without {', '.join(lacking)}")
    tree = cKDTree(neutral)
    points: dict[tuple[int, ...], list[np.ndarray]] = {}
    for name, point in landmarks.items():
        if name in LANDMARK_NAMES and tree.query(point)[0] * METRES_PER_UNIT < FAR_M:
            points.setdefault(LANDMARK_NAMES[name], []).append(point)
    return {which: np.mean(found, axis=0) * METRES_PER_UNIT for which, found in points.items()}


def _modes(model: h5py.Group, count: int) -> np.ndarray:
    """The first ``count`` modes (N, V, 3), millimetres per standard deviation."""
    variance = np.asarray(model["pcaVariance"]).ravel()[:count]
    return columns_as_modes(model["pcaBasis"][:, :count], np.sqrt(np.maximum(variance, 0)))


def _read(data: h5py.File, name: str) -> np.ndarray:
    if name not in data:
        raise ValueError(f"it lacks {name}")
    return np.asarray(data[name][()])


def _has_shape(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            if file.read(len(SIGNATURE)) != SIGNATURE:
                return False
        with h5py.File(path, "r") as data:
            return "shape/model/mean" in data
    except (OSError, RuntimeError):  # RuntimeError: damaged inside
        return False


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.h5") if _has_shape(file))
