"""FLAME (Li et al., "Learning a model of facial shape and expression from 4D scans", SIGGRAPH Asia 2017).

Read from the pickle of the Max Planck Institute for Intelligent Systems: ``generic_model.pkl`` or
``FLAME_NEUTRAL.pkl`` of 2020 and before, ``flame2023.pkl`` or ``flame2023_no_jaw.pkl`` of 2023, also the male and
female ones. The file is a dict: ``v_template`` (5023, 3), ``shapedirs`` (5023, 3, 400: 300 identities, then 100
expressions, in standard deviations), ``f`` (9976, 3), ``weights`` (5023, 5), ``posedirs`` (5023, 3, 36),
``J_regressor`` (5, 5023), ``kintree_table``. Metres; axes as in the head frame. Older files wrap arrays in chumpy. It
is read without running it (:mod:`manvatar.face_models.pickles`).

The versions and sexes share their mesh but not their modes, and no file says which it is: the model's id ends in a
hash of its numbers, so that a track is never taken for one of another version.

Coefficients, all in standard deviations:

* identity 0 ... 79: FLAME's shape parameters 0 ... 79.
* expression 0 ... 29: FLAME's expression parameters 0 ... 29.
* ``jawOpen`` and ``jawLeft`` (the last two): FLAME opens its mouth by turning the jaw, not by expressions, so the
  turn is added as two linear modes. One unit is ``JAW_SD_RAD`` of the jaw's rotation vector (x: open, y: to the
  left). Each is the chord of the true motion (pose correctives, then linear blend skinning) between 0 and
  ``JAW_CHORD_RAD``: exact at both ends, up to 0.7 mm off in between and 2 mm at 0.3 rad of opening, where the chin
  has moved by 35 mm.

Neck, eyeball and roll of the jaw are left out: the tracker has no unknowns for them. Eyelids have no mode in FLAME.

Landmarks: 68 from ``landmark_embedding.npy`` or ``flame_static_embedding_68.pkl`` beside the model where they are; 51
from ``flame_static_embedding.pkl``, the jaw line being completed from the builtin head; without any, all 68 are
carried over from the builtin head, which is fitted to the mean (:mod:`manvatar.face_models.fitting`).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from manvatar.errors import UserError
from manvatar.face_models.assembly import IDENTITY_COUNT, Shapes, assemble, checked_triangles
from manvatar.face_models.completion import complete, embed_apart
from manvatar.face_models.fitting import fitted_landmarks
from manvatar.face_models.pickles import RefusedError, looks_like_pickle, read_npy, read_pickle
from manvatar.types import FaceModel, LandmarkEmbedding

NAMES = (
    "generic_model.pkl",
    "FLAME_NEUTRAL.pkl",
    "flame2023.pkl",
    "flame2023_no_jaw.pkl",
    "male_model.pkl",
    "FLAME_MALE.pkl",
    "female_model.pkl",
    "FLAME_FEMALE.pkl",
)
ACCEPTED = "a FLAME pickle such as generic_model.pkl or flame2023.pkl"
KEYS = ("v_template", "shapedirs", "f", "weights", "posedirs", "J_regressor")
METRES_PER_UNIT = 1.0
JOINTS = 5  # root, neck, jaw, left eye, right eye
JAW = 2
EYES = (3, 4)
FIRST_EXPRESSION = 300  # column of shapedirs
EXPRESSION_COUNT = 30  # and two of the jaw: 32
JAW_SD_RAD = (0.12, 0.03)  # of talking and emoting: opening, to the left
JAW_CHORD_RAD = (0.2, 0.08)
EMBEDDINGS_68 = ("landmark_embedding.npy", "flame_static_embedding_68.pkl")
EMBEDDING_51 = "flame_static_embedding.pkl"


def accepts(path: Path) -> bool:
    """Whether ``path`` is a pickle that is no landmark file, or a folder that holds one under a name FLAME uses."""
    if path.is_dir():
        return any((path / name).is_file() for name in NAMES)
    return looks_like_pickle(path) and path.name not in (*EMBEDDINGS_68, EMBEDDING_51)


def part_of(path: Path) -> str | None:
    """What to do with a file or folder that is only a part of FLAME; None for anything else."""
    parts = (*EMBEDDINGS_68, EMBEDDING_51)
    if path.name in parts or (path.is_dir() and any((path / name).is_file() for name in parts)):
        return (
            "it holds landmarks for FLAME but not the model; generic_model.pkl or flame2023.pkl is missing, from the "
            "Max Planck Institute for Intelligent Systems (FLAME)"
        )
    return None


def load(path: Path, identity_count: int = IDENTITY_COUNT, expression_count: int = EXPRESSION_COUNT) -> FaceModel:
    """Read the pickle, or that of a folder (the first there is of ``NAMES``).

    Raises:
        UserError: the file asks for code to be run, is damaged, or is another model; the message says which.
    """
    file = next(path / name for name in NAMES if (path / name).is_file()) if path.is_dir() else path
    try:
        shapes = _shapes(read_pickle(file), identity_count, expression_count)
        return assemble(shapes, _landmarks(file.parent, shapes))
    except RefusedError as error:
        raise UserError(
            f"{file} is a pickle that is more than arrays: {error}; give a FLAME file as published"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"cannot read {file} as FLAME: {error}; expected {ACCEPTED}") from error


def _shapes(data: Any, identity_count: int, expression_count: int) -> Shapes:
    if not isinstance(data, dict) or not set(KEYS) <= set(data):
        lacking = [key for key in KEYS if key not in (data if isinstance(data, dict) else {})]
        raise ValueError(f"it lacks {', '.join(lacking)}")
    arrays = {key: np.asarray(data[key], np.float64) for key in KEYS if key not in ("f", "shapedirs")}
    directions = np.asarray(data["shapedirs"], np.float32)
    mean, weights = arrays["v_template"], arrays["weights"]
    if weights.ndim != 2 or weights.shape[1] != JOINTS:
        raise ValueError(f"it is a model with {weights.shape[-1]} joints; FLAME has {JOINTS}")
    if directions.shape[:2] != mean.shape or directions.shape[2] <= FIRST_EXPRESSION:
        raise ValueError(f"its shapedirs are {directions.shape} instead of {(*mean.shape, 400)}")
    if arrays["posedirs"].shape != (*mean.shape, 9 * (JOINTS - 1)):
        raise ValueError(f"its posedirs are {arrays['posedirs'].shape} instead of {(*mean.shape, 36)}")
    modes = np.moveaxis(directions, 2, 0)
    identity = modes[: min(identity_count, FIRST_EXPRESSION)]
    expression = modes[FIRST_EXPRESSION : FIRST_EXPRESSION + expression_count]
    names = (*(f"flame_exp_{k:02d}" for k in range(len(expression))), "jawOpen", "jawLeft")
    expression = np.concatenate([expression, _jaw_modes(arrays).astype(np.float32)])
    triangles = checked_triangles(data["f"], len(mean))
    parts = ("face", "left_eyeball", "right_eyeball")
    return Shapes(
        _id(mean, modes), mean, identity, expression, names, triangles, METRES_PER_UNIT, parts, _parts(mean, weights)
    )


def _id(mean: np.ndarray, modes: np.ndarray) -> str:
    """``flame-`` and a hash: the versions have one topology but other modes, and do not say which they are."""
    digest = hashlib.sha256(np.ascontiguousarray(mean, "<f4").tobytes())
    for first in (0, FIRST_EXPRESSION):
        digest.update(np.ascontiguousarray(modes[first : first + 5], "<f4").tobytes())
    return f"flame-{digest.hexdigest()[:8]}"


def _jaw_modes(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """(2, V, 3): displacements per standard deviation of turning the jaw of the mean about x and about y."""
    return np.stack(
        [
            jaw_motion(arrays, np.eye(3)[axis] * JAW_CHORD_RAD[axis]) * (JAW_SD_RAD[axis] / JAW_CHORD_RAD[axis])
            for axis in (0, 1)
        ]
    )


def jaw_motion(arrays: dict[str, np.ndarray], rotation_vector: np.ndarray) -> np.ndarray:
    """Displacements (V, 3) of the mean when the jaw turns: FLAME's own equations, all other joints at rest.

    Args:
        arrays: ``v_template``, ``weights``, ``posedirs`` and ``J_regressor`` of the file.
        rotation_vector: (3,) radians about the axes of the head frame.
    """
    angle = float(np.linalg.norm(rotation_vector))
    x, y, z = rotation_vector / max(angle, 1e-12)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn = np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross  # Rodrigues, minus the identity
    mean = arrays["v_template"]
    joint = (arrays["J_regressor"] @ mean)[JAW]
    corrected = mean + arrays["posedirs"][:, :, 9 * (JAW - 1) : 9 * JAW] @ turn.ravel()
    return corrected - mean + arrays["weights"][:, JAW, None] * ((corrected - joint) @ turn.T)


def _parts(mean: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """0 = skin, 1 = left eyeball, 2 = right: vertices that turn with an eye joint, sides by where they are."""
    ball = weights[:, EYES].sum(1) > 0.5
    return np.where(ball, np.where(mean[:, 0] > 0, 1, 2), 0)


# ----------------------------------------------------------------------------------------------------------- landmarks


def _landmarks(folder: Path, shapes: Shapes) -> LandmarkEmbedding:
    for name in EMBEDDINGS_68:
        if (folder / name).is_file():
            return _embedding(*_table(folder / name, 68), shapes)
    skin = shapes.triangles[(shapes.vertex_part[shapes.triangles] == 0).all(1)]
    row = np.flatnonzero((shapes.vertex_part[shapes.triangles] == 0).all(1))
    if (folder / EMBEDDING_51).is_file():
        triangle, barycentric = _table(folder / EMBEDDING_51, 51)
        given = (shapes.mean[shapes.triangles[triangle]] * barycentric[..., None]).sum(1)
        known = {(17 + k,): point for k, point in enumerate(given)}
        whole = complete(known, shapes.mean, skin, shapes.expression)
        triangle = np.concatenate([row[whole.triangle[:17].numpy()], triangle])
        return _embedding(triangle, np.concatenate([whole.barycentric[:17].numpy(), barycentric]), shapes)
    points = fitted_landmarks(shapes.mean, skin, _eyes(shapes))
    whole = embed_apart(points, shapes.mean, skin, shapes.expression)
    return _embedding(row[whole.triangle.numpy()], whole.barycentric.numpy(), shapes)


def _eyes(shapes: Shapes) -> np.ndarray:
    """Centres (2, 3) of the left and the right eyeball."""
    if any(not (shapes.vertex_part == part).any() for part in (1, 2)):
        raise ValueError("it has no eyeballs, and no landmark file lies beside it")
    return np.stack([shapes.mean[shapes.vertex_part == part].mean(0) for part in (1, 2)])


def _embedding(triangle: np.ndarray, barycentric: np.ndarray, shapes: Shapes) -> LandmarkEmbedding:
    if triangle.min() < 0 or triangle.max() >= len(shapes.triangles):
        raise ValueError(
            f"the landmark file beside it names triangles up to {triangle.max()} of {len(shapes.triangles)}"
        )
    weights = torch.from_numpy(np.ascontiguousarray(barycentric, dtype=np.float32))
    return LandmarkEmbedding("ibug68", torch.from_numpy(triangle.astype(np.int64)), weights, torch.ones(len(triangle)))


def _table(path: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Triangle (K,) and weights (K, 3) of a landmark file of FLAME, in any of its spellings."""
    data = read_npy(path) if path.suffix == ".npy" else read_pickle(path)
    for faces, weights in (("full_lmk_faces_idx", "full_lmk_bary_coords"), ("lmk_face_idx", "lmk_b_coords")):
        if isinstance(data, dict) and faces in data:
            triangle, barycentric = (
                np.asarray(data[faces]).ravel(),
                np.asarray(data[weights], np.float64).reshape(-1, 3),
            )
            if len(triangle) == len(barycentric) == count:
                return triangle.astype(np.int64), barycentric
            raise ValueError(f"{path.name} lists {len(triangle)} landmarks instead of {count}")
    raise ValueError(f"{path.name} is no landmark file of FLAME")
