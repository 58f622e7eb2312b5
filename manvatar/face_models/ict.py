"""ICT-FaceKit's light face model (Li et al., "Learning Formation of Physically-Based Face Attributes", CVPR 2020).

Two layouts are read: the folder of the original repository (``FaceXModel``: ``generic_neutral_mesh.obj``,
``identity000.obj`` ..., one OBJ per expression, ``vertex_indices.json``) and one packed ``.npz`` with the arrays
``neutral`` (V, 3), ``identity`` (I, V, 3), ``expression`` (E, V, 3) as displacements and ``names`` (E,). A packed file
may also hold ``triangles`` (T, 3); without them those of ``generic_neutral_mesh.obj`` beside it are used, and without
that the skin, sockets and scleras are triangulated from the vertices (:mod:`manvatar.face_models.surface`), the teeth
and the rest of the eyes being left as points.

ICT's centimetres become metres. Its axes (x to the subject's left, y up, z out of the face) are those of the head
frame. Identity modes are already in standard deviations. The expressions are ARKit blendshapes with activations in
[0, 1]; they become 32 modes ``ict_pca_00`` ... by :func:`activation_modes`, and :func:`named_map` says what a
blendshape is in these.
"""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from manvatar.errors import UserError
from manvatar.face_models.arkit import ARKIT_NAMES
from manvatar.face_models.surface import triangulate
from manvatar.types import ArkitMap, FaceModel, LandmarkEmbedding

VERTEX_COUNT = 26719
MODE_COUNT = 32
NEUTRAL = "generic_neutral_mesh.obj"
ACCEPTED = f"a packed .npz (neutral, identity, expression, names) or a folder with {NEUTRAL} and identity000.obj ..."

# Parts by their first vertex, from the table in the model's README; each ends where the next begins.
PARTS: tuple[tuple[str, int], ...] = (
    ("face", 0),
    ("neck", 9409),  # the back of the head and the neck
    ("mouth_bag", 11248),
    ("eye_sockets", 13294),
    ("gums_tongue", 14062),
    ("upper_teeth", 17039),
    ("lower_teeth", 19247),
    ("left_eyeball", 21451),
    ("right_eyeball", 23021),
    ("eye_details", 24591),  # tear film, blends, occlusion, lashes: helpers for shading
)
# What is triangulated where a file has no triangles: (first, one past the last) vertex of each single sheet, and
# whether it is seen from outside (skin, scleras) or from within (mouth, eye sockets).
SHEETS = (
    (0, 11248, True),
    (11248, 13294, False),
    (13294, 13678, False),
    (13678, 14062, False),
    (21451, 22221, True),
    (23021, 23791, True),
)

# iBUG-68 vertices, from the same README; used where no JSON file says otherwise.
LANDMARKS_68 = (
    1225, 1888, 1052, 367, 1719, 1722, 2199, 1447, 966, 3661, 4390, 3927, 3924, 2608, 3272, 4088, 3443,
    268, 493, 1914, 2044, 1401, 3615, 4240, 4114, 2734, 2509, 978, 4527, 4942, 4857, 1140, 2075, 1147, 4269, 3360,
    1507, 1542, 1537, 1528, 1518, 1511, 3742, 3751, 3756, 3721, 3725, 3732,
    5708, 5695, 2081, 0, 4275, 6200, 6213, 6346, 6461, 5518, 5957, 5841,
    5702, 5711, 5533, 6216, 6207, 6470, 5517, 5966,
)  # fmt: skip

# Root mean square activation of a blendshape in talking and emoting faces, by the start of its name; first match
# counts. Gaze moves the eyeballs, which have no part in the 32 modes; pupils likewise.
ACTIVATION_RMS: tuple[tuple[str, float], ...] = (
    ("pupil", 0.0),
    ("eyeLook", 0.0),
    ("jawOpen", 0.35),
    ("jaw", 0.2),
    ("eyeBlink", 0.45),
    ("eye", 0.3),
    ("brow", 0.35),
    ("mouthClose", 0.1),  # only ever a part of an open jaw
    ("mouthSmile", 0.45),
    ("mouth", 0.3),
    ("cheek", 0.25),
    ("nose", 0.25),
)
SIDES_CORRELATION = 0.75  # of the left and the right blendshape of a pair


@dataclass(frozen=True)
class _Shapes:
    """What both layouts hold, still in centimetres."""

    neutral: np.ndarray
    identity: np.ndarray
    expression: np.ndarray
    names: tuple[str, ...]
    triangles: np.ndarray
    landmarks: np.ndarray
    fitting: np.ndarray  # vertices of the mobile face


def accepts(path: Path) -> bool:
    """Whether ``path`` looks like one of the two layouts, by its outside only."""
    if path.is_dir():
        return (path / NEUTRAL).is_file() or (path / "FaceXModel" / NEUTRAL).is_file()
    if path.suffix != ".npz" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return {"neutral.npy", "identity.npy", "expression.npy"} <= set(archive.namelist())


def load(path: Path) -> FaceModel:
    """Read either layout.

    Raises:
        UserError: the file or folder is not an ICT-FaceKit light model, or is damaged.
    """
    try:
        shapes = _read_folder(path) if path.is_dir() else _read_npz(path)
    except (OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read the ICT-FaceKit model {path}: {error}; expected {ACCEPTED}") from error
    if shapes.neutral.shape != (VERTEX_COUNT, 3):
        raise UserError(
            f"{path} holds {len(shapes.neutral)} vertices, ICT-FaceKit light has {VERTEX_COUNT}; expected {ACCEPTED}"
        )
    return _face_model(shapes)


def activation_modes(
    blendshapes: np.ndarray, names: tuple[str, ...], measured: np.ndarray, count: int = MODE_COUNT
) -> np.ndarray:
    """Modes in standard deviations from blendshapes with activations in [0, 1].

    The activations c are given second moments E[c c^T] = A (``ACTIVATION_RMS``, sides correlated), and the modes are
    the principal axes of the displacements c @ blendshapes about the *neutral* face, so zero coefficients stay neutral
    and every coefficient has root mean square 1 over that distribution. The metric counts the vertices ``measured``.

    Args:
        blendshapes: (E, V, 3) displacements. names: (E,), ARKit style with ``_L`` and ``_R``.
        measured: indices of the vertices that count.

    Returns: (count, V, 3), strongest first, in the unit of ``blendshapes``.
    """
    weights = _mode_weights(blendshapes, names, measured, count)
    return np.einsum("ke,evc->kvc", weights, blendshapes, optimize=True)


def named_map(blendshapes: np.ndarray, names: tuple[str, ...], modes: np.ndarray, measured: np.ndarray) -> ArkitMap:
    """The coefficients of ``modes`` (M, V, 3) that show each of Apple's blendshapes best, by least squares.

    Blendshapes that ICT splits into sides (``browInnerUp_L``) and Apple does not are both sides together. ICT has no
    ``tongueOut``; its ``eyeLook...`` move the lids and not the eyeballs.
    """
    index = {re.sub("_R$", "Right", re.sub("_L$", "Left", name)): i for i, name in enumerate(names)}
    chosen = np.zeros((len(ARKIT_NAMES), len(names)))
    for row, name in enumerate(ARKIT_NAMES):
        for own in (name, f"{name}Left", f"{name}Right"):
            if own in index:
                chosen[row, index[own]] = 1
    shapes = chosen @ blendshapes[:, measured].reshape(len(names), -1).astype(np.float64)
    basis = modes[:, measured].reshape(len(modes), -1).astype(np.float64)
    coefficients = np.linalg.solve(basis @ basis.T, basis @ shapes.T).T
    size = np.linalg.norm(shapes, axis=1)
    left = np.linalg.norm(shapes - coefficients @ basis, axis=1)
    residual = np.divide(left, size, out=np.ones_like(size), where=size > 0)
    return ArkitMap(torch.from_numpy(coefficients).float(), torch.from_numpy(residual).float(), "named")


def _mode_weights(blendshapes: np.ndarray, names: tuple[str, ...], measured: np.ndarray, count: int) -> np.ndarray:
    """What each mode is in blendshapes: (count, E)."""
    rms = np.array([_activation_rms(name) for name in names])
    moments = np.diag(rms**2)
    index = {name: i for i, name in enumerate(names)}
    for name, i in index.items():
        other = index.get(re.sub("_L$", "_R", name), i)
        if other != i:
            moments[i, other] = moments[other, i] = SIDES_CORRELATION * rms[i] * rms[other]
    values, vectors = np.linalg.eigh(moments)
    root = vectors * np.sqrt(np.maximum(values, 0))  # moments = root @ root.T
    sampled = blendshapes[:, measured].reshape(len(names), -1).astype(np.float64)
    variances, axes = np.linalg.eigh(root.T @ (sampled @ sampled.T) @ root)
    chosen = axes[:, np.argsort(variances)[::-1][:count]]
    # c = root z with z white, and z = chosen b + rest: unit b along an axis displaces by (root @ axis) @ shapes.
    weights = (root @ chosen).T
    # The blendshape that moves most in a mode is activated, not undone, by a positive coefficient.
    leading = np.abs(weights * np.linalg.norm(sampled, axis=1)).argmax(1)
    return weights * np.sign(weights[np.arange(len(weights)), leading])[:, None]


def _activation_rms(name: str) -> float:
    return next((rms for start, rms in ACTIVATION_RMS if name.lower().startswith(start.lower())), 0.25)


def _face_model(shapes: _Shapes) -> FaceModel:
    if len(shapes.landmarks) != 68 or max(shapes.landmarks.max(), shapes.triangles.max()) >= VERTEX_COUNT:
        raise UserError("the vertex index file beside the ICT-FaceKit model does not list 68 landmark vertices of it")
    modes = activation_modes(shapes.expression, shapes.names, shapes.fitting)
    origin = shapes.neutral[shapes.landmarks[[36, 39, 42, 45]]].mean(0)
    triangles = torch.from_numpy(shapes.triangles.astype(np.int64))
    part = np.searchsorted([first for _, first in PARTS], np.arange(VERTEX_COUNT), side="right") - 1
    return FaceModel(
        id="ict-facekit-light",
        mean_m=_metres(shapes.neutral - origin),
        identity_basis_m=_metres(shapes.identity),
        expression_basis_m=_metres(modes),
        expression_names=tuple(f"ict_pca_{i:02d}" for i in range(len(modes))),
        triangles=triangles,
        embeddings=(vertex_embedding(triangles, torch.from_numpy(shapes.landmarks)),),
        part_names=tuple(name for name, _ in PARTS),
        vertex_part=torch.from_numpy(part.astype(np.int64)),
        arkit=named_map(shapes.expression, shapes.names, modes, shapes.fitting),
    )


def vertex_embedding(triangles: torch.Tensor, vertices: torch.Tensor) -> LandmarkEmbedding:
    """The iBUG-68 landmarks as vertices: for each, the first triangle it is a corner of.

    Raises:
        ValueError: a vertex belongs to no triangle.
    """
    match = triangles[None] == vertices[:, None, None]  # (68, T, 3)
    found = match.any(2)
    if not bool(found.any(1).all()):
        raise ValueError(f"landmark vertices {vertices[~found.any(1)].tolist()} belong to no triangle")
    triangle = found.int().argmax(1)
    barycentric = match[torch.arange(len(vertices)), triangle].float()
    return LandmarkEmbedding("ibug68", triangle, barycentric, torch.ones(len(vertices)))


def _metres(centimetres: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(centimetres, dtype=np.float32) * np.float32(0.01))


# ------------------------------------------------------------------------------------------------------------- reading


def _read_npz(path: Path) -> _Shapes:
    with np.load(path, allow_pickle=False) as data:
        neutral, identity, expression = (data[key] for key in ("neutral", "identity", "expression"))
        names = tuple(str(name) for name in data["names"])
        triangles = data.get("triangles")
    if identity.shape[1:] != neutral.shape or expression.shape != (len(names), *neutral.shape):
        raise ValueError(
            f"shapes {neutral.shape}, {identity.shape}, {expression.shape} and {len(names)} names disagree"
        )
    if triangles is None and (path.parent / NEUTRAL).is_file():
        triangles = _read_obj(path.parent / NEUTRAL)[1]
    if triangles is None:
        triangles = _sheets(neutral, expression, names)
    landmarks, fitting = _read_indices(path.parent)
    return _Shapes(neutral, identity, expression, names, triangles, landmarks, fitting)


def _read_folder(path: Path) -> _Shapes:
    folder = path if (path / NEUTRAL).is_file() else path / "FaceXModel"
    if not (folder / NEUTRAL).is_file():
        raise UserError(f"{path} holds no {NEUTRAL}; expected {ACCEPTED}")
    neutral, triangles = _read_obj(folder / NEUTRAL)
    files = sorted(file for file in folder.glob("*.obj") if file.name != NEUTRAL)
    identities = [file for file in files if re.fullmatch(r"identity\d+", file.stem)]
    expressions = [file for file in files if file not in identities]
    if not identities or not expressions:
        raise UserError(f"{folder} lacks the identity or the expression OBJ files; expected {ACCEPTED}")
    identity = np.stack([_read_obj(file, neutral.shape)[0] - neutral for file in identities])
    expression = np.stack([_read_obj(file, neutral.shape)[0] - neutral for file in expressions])
    landmarks, fitting = _read_indices(folder)
    names = tuple(file.stem for file in expressions)
    return _Shapes(neutral, identity, expression, names, triangles, landmarks, fitting)


def _read_obj(path: Path, expected: tuple[int, ...] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) and triangles (T, 3) of an OBJ file; polygons become fans. With ``expected``, only vertices."""
    vertices: list[list[str]] = []
    triangles: list[tuple[int, int, int]] = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("v "):
                vertices.append(line.split()[1:4])
            elif expected is None and line.startswith("f "):
                corner = [int(word.partition("/")[0]) - 1 for word in line.split()[1:]]
                triangles += [(corner[0], corner[k], corner[k + 1]) for k in range(1, len(corner) - 1)]
    result = np.array(vertices, np.float32).reshape(-1, 3)
    if expected is not None and result.shape != expected:
        raise ValueError(f"{path.name} has {len(result)} vertices instead of {expected[0]}")
    return result, np.array(triangles, np.int64).reshape(-1, 3)


def _read_indices(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Landmark vertices and the vertices of the mobile face, from the JSON beside the model where there is one."""
    for name in ("vertex_indices.json", "ict_vertex_indices.json"):
        if (folder / name).is_file():
            table = json.loads((folder / name).read_text(encoding="utf-8"))
            return np.array(table["idx_to_landmark_verts"]), np.array(table["idx_to_fitting_verts"])
    return np.array(LANDMARKS_68), np.arange(PARTS[1][1])


def _sheets(neutral: np.ndarray, expression: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Triangles from vertices, in a pose in which lips do not touch."""
    pose = neutral.astype(np.float64)
    for name, activation in (("jawOpen", 0.8), ("mouthFunnel", 0.5)):
        if name in names:
            pose = pose + activation * expression[names.index(name)]
    sheets = [triangulate(pose[first:end])[:, :: 1 if outside else -1] + first for first, end, outside in SHEETS]
    return np.concatenate(sheets)
