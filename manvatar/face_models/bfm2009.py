"""Basel Face Model 2009 as published, with the expressions that are used with it (full mask, 53,215 vertices).

Three files of one folder (Paysan et al., "A 3D Face Model for Pose and Illumination Invariant Face Recognition", AVSS
2009; expressions of Guo et al., "CNN-based Real-time Dense Face Reconstruction", TPAMI 2018):

* ``01_MorphableModel.mat`` (University of Basel, "PublicMM1"): ``shapeMU`` (160470, 1), ``shapePC`` (160470, 199),
  ``shapeEV`` (199, 1), ``tl`` (106466, 3). Micrometres; ``shapeEV`` holds standard deviations; ``tl`` counts from 1 and
  runs clockwise.
* ``Exp_Pca.bin`` (with the CoarseData of Guo et al.): int32 n = 79, float32 mean[3 x 53215], float32
  basis[n][3 x 53215]. The vertices are those of the model without the inside of the mouth. The mean is left out, as
  everybody does who uses the file, so zero coefficients are the neutral mean face.
* ``std_exp.txt`` (with Deep3DFaceReconstruction): the 79 standard deviations.

Coefficients: identity 0 ... 79 of 199, expression 0 ... 31 of 79, in the order of the files, in standard deviations.
These are the numbers of ``id_coeff`` and of the first entries of ``exp_coeff`` in data sets made with
``BFM_model_front.mat`` (:mod:`manvatar.face_models.bfm2009_front`), which is a part of the same mesh.
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
    kept_vertices,
    vertex_embedding,
)
from manvatar.face_models.matlab import read, variables
from manvatar.types import FaceModel

MODEL, EXPRESSIONS, DEVIATIONS = "01_MorphableModel.mat", "Exp_Pca.bin", "std_exp.txt"
ACCEPTED = f"a folder with {MODEL}, {EXPRESSIONS} and {DEVIATIONS}"
SOURCES = {
    MODEL: "the Basel Face Model 2009 itself, from the University of Basel",
    EXPRESSIONS: "the expressions of Guo et al., in the CoarseData of their 3DFace project",
    DEVIATIONS: "the standard deviations of the expressions, with the Deep3DFaceReconstruction project",
}
VERTEX_COUNT, TRIMMED_COUNT = 53490, 53215
METRES_PER_UNIT = 1e-6

# iBUG-68 vertices in the numbering of 53,490 from 0: the `keypoints` of Deep3DFaceReconstruction's model, carried back
# through its two index files.
LANDMARKS_68 = (
    22148, 22424, 21928, 21311, 43511, 45193, 46441, 47410, 48189, 48970, 49942, 51199, 52888, 33953, 33280, 32744,
    32984, 38970, 39667, 40057, 40262, 40429, 41168, 41334, 41542, 41936, 42642, 8290, 8306, 8316, 8321, 6525, 7300,
    8333, 9364, 10137, 2215, 3886, 4920, 5828, 4801, 3640, 10730, 11628, 12658, 14341, 12928, 11767, 5522, 6025, 7570,
    8344, 9118, 10669, 11070, 9792, 9019, 8374, 7729, 6954, 5909, 7450, 8352, 9256, 10812, 9012, 8367, 7722,
)  # fmt: skip

# The inside of the mouth: the 275 of 53,490 vertices (from 0, first and last of each run) that `Exp_Pca.bin` lacks.
# They are what the `trimIndex` of 3DDFA leaves out. Most rows of the mesh's grid are 129 vertices apart.
MOUTH_INSIDE = (
    (6167, 6167), (6295, 6297), (6423, 6428), (6551, 6557), (6680, 6686), (6809, 6815), (6938, 6945),
    *((first, first + 8) for first in range(7067, 9906, 129)),
    (10034, 10041), (10163, 10169), (10292, 10297), (10421, 10423), (10425, 10425), (10549, 10551), (10679, 10679),
)  # fmt: skip


def accepts(path: Path) -> bool:
    """Whether ``path`` is ``01_MorphableModel.mat`` (by its contents), or a folder that holds it."""
    if path.is_dir():
        return (path / MODEL).is_file()
    return {"shapeMU", "shapePC", "shapeEV"} <= variables(path)


def part_of(path: Path) -> str | None:
    """What to do with a file or folder that is only a part of this model; None for anything else."""
    if path.is_dir():
        found = [name for name in (EXPRESSIONS, DEVIATIONS) if (path / name).is_file()]
        return f"it holds {' and '.join(found)} of the Basel Face Model 2009 but {_lacks([MODEL])}" if found else None
    if path.name == DEVIATIONS:
        return f"it is {DEVIATIONS} (expressions for the Basel Face Model 2009); give the folder with {MODEL}"
    try:
        count = _expression_layout(path)[0]
        return f"it is {EXPRESSIONS} ({count} expressions for the Basel Face Model 2009); give the folder with {MODEL}"
    except (OSError, ValueError):
        pass
    if {"texMU", "texPC", "texEV"} & variables(path):
        return f"it holds texture of the Basel Face Model 2009 without shape; give the folder with {MODEL}"
    return None


def load(path: Path, identity_count: int = IDENTITY_COUNT, expression_count: int = EXPRESSION_COUNT) -> FaceModel:
    """Read the three files; ``path`` is the folder or its ``01_MorphableModel.mat``.

    Raises:
        UserError: a file is missing or damaged; the message says which, and where users obtain it.
    """
    model = path / MODEL if path.is_dir() else path
    lacking = [name for name in (EXPRESSIONS, DEVIATIONS) if not (model.parent / name).is_file()]
    if lacking:
        raise UserError(f"{model} is the Basel Face Model 2009, but beside it {_lacks(lacking)}")
    try:
        shapes, landmarks = _read(model, identity_count, expression_count)
        return assemble(shapes, vertex_embedding(landmarks, shapes.triangles))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"cannot read the Basel Face Model 2009 in {model.parent}: {error}; expected {ACCEPTED}"
        ) from error


def _read(model: Path, identity_count: int, expression_count: int) -> tuple[Shapes, np.ndarray]:
    data = read(model, ("shapeMU", "shapePC", "shapeEV", "tl"))
    mean = np.asarray(data["shapeMU"], np.float64).reshape(-1, 3)
    deviations = np.asarray(data["shapeEV"]).ravel()[:identity_count]
    identity = columns_as_modes(data["shapePC"][:, :identity_count], deviations)
    if len(mean) != VERTEX_COUNT or identity.shape[1] != VERTEX_COUNT:
        raise ValueError(f"{model.name} has {len(mean)} vertices instead of {VERTEX_COUNT}")
    triangles = checked_triangles(np.asarray(data["tl"]).astype(np.int64) - 1, VERTEX_COUNT)
    expression = _expressions(model.parent, expression_count)
    landmarks = np.array(LANDMARKS_68)
    if expression.shape[1] == TRIMMED_COUNT:
        kept = outside_mouth()
        triangles, number = kept_vertices(triangles, kept)
        mean, identity, landmarks = mean[kept], identity[:, kept], number[landmarks]
    elif expression.shape[1] != VERTEX_COUNT:
        raise ValueError(f"{EXPRESSIONS} has {expression.shape[1]} vertices instead of {TRIMMED_COUNT}")
    names = tuple(f"bfm_exp_{k:02d}" for k in range(len(expression)))
    # The extent in the id: the same coefficients, but other vertices than the front part.
    return Shapes("bfm2009-full", mean, identity, expression, names, triangles, METRES_PER_UNIT), landmarks


def outside_mouth() -> np.ndarray:
    """Which of the 53,490 vertices (bool) have expressions."""
    kept = np.ones(VERTEX_COUNT, bool)
    for first, last in MOUTH_INSIDE:
        kept[first : last + 1] = False
    return kept


def _expressions(folder: Path, count: int) -> np.ndarray:
    """The first ``count`` expression modes (E, V, 3), micrometres per standard deviation."""
    deviations = np.loadtxt(folder / DEVIATIONS, dtype=np.float32).ravel()
    total, vertices = _expression_layout(folder / EXPRESSIONS)
    if len(deviations) < total:
        raise ValueError(f"{DEVIATIONS} has {len(deviations)} numbers for the {total} expressions of {EXPRESSIONS}")
    kept = min(count, total)
    basis = np.fromfile(folder / EXPRESSIONS, "<f4", count=3 * vertices * kept, offset=4 + 12 * vertices)
    return basis.reshape(kept, vertices, 3) * deviations[:kept, None, None]


def _expression_layout(path: Path) -> tuple[int, int]:
    """(expressions, vertices) of an ``Exp_Pca.bin``. Raises ``ValueError`` when its size does not fit."""
    size = path.stat().st_size
    with path.open("rb") as file:
        count = int.from_bytes(file.read(4), "little", signed=True)
    for vertices in (TRIMMED_COUNT, VERTEX_COUNT):
        if 0 < count <= 1000 and size == 4 + 12 * vertices * (count + 1):
            return count, vertices
    raise ValueError(f"{path.name} has {size} bytes, which is not the size of {EXPRESSIONS}")


def _lacks(names: list[str]) -> str:
    verb = "is" if len(names) == 1 else "are"
    return f"{' and '.join(names)} {verb} missing: " + "; ".join(f"{name} is {SOURCES[name]}" for name in names)
