"""The builtin head written into the layouts of other face models, so that loading them can be compared with it.

Coefficients, units, winding and numbering are those of each format; what comes back must be the same head.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np
from scipy.io import savemat
from scipy.sparse import csc_matrix

from manvatar.face_models import bfm2009, bfm_h5, load
from manvatar.face_models.embedding import embedded_points

IDENTITIES, EXPRESSIONS = 5, 6


@dataclass(frozen=True)
class SmallHead:
    """The builtin face without organs, few modes; metres, origin as in the builtin head."""

    mean: np.ndarray  # (V, 3)
    identity: np.ndarray  # (I, V, 3)
    expression: np.ndarray  # (E, V, 3)
    triangles: np.ndarray  # (T, 3), counter-clockwise
    landmarks: np.ndarray  # (68,) distinct vertices
    points: np.ndarray  # (68, 3) the builtin landmarks themselves
    eyeballs: np.ndarray  # (V,) 0 = skin, 1 = left, 2 = right


@lru_cache(maxsize=1)
def small_head() -> SmallHead:
    """Skin of the head and eyeballs of the builtin head; the first modes, with an opening jaw among the expressions."""
    model = load("builtin")
    parts = [model.part_names.index(name) for name in ("left_eyeball", "right_eyeball", "face", "skull")]
    part = model.vertex_part.numpy()
    kept = np.isin(part, parts)
    number = np.where(kept, np.cumsum(kept) - 1, -1)
    triangles = number[model.triangles.numpy()]
    triangles = triangles[(triangles >= 0).all(1)]
    names = list(model.expression_names)
    modes = [names.index("jawOpen"), *(k for k in range(EXPRESSIONS) if names[k] != "jawOpen")][:EXPRESSIONS]
    mean = model.mean_m.double().numpy()[kept]
    points = embedded_points(model, "ibug68")
    opened = mean + 2 * model.expression_basis_m[modes[0]].double().numpy()[kept]
    corners = model.mean_m + 2 * model.expression_basis_m[modes[0]]
    return SmallHead(
        mean,
        model.identity_basis_m[:IDENTITIES].double().numpy()[:, kept],
        model.expression_basis_m[modes].double().numpy()[:, kept],
        triangles,
        _distinct_nearest(embedded_points(model, "ibug68", corners.double().numpy()), opened, part[kept] == parts[2]),
        points,
        np.select([part[kept] == parts[0], part[kept] == parts[1]], [1, 2], 0),
    )


def _distinct_nearest(points: np.ndarray, vertices: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """For each point the nearest allowed vertex that no earlier point has."""
    free, result = allowed.copy(), []
    for point in points:
        distance = np.where(free, np.linalg.norm(vertices - point, axis=1), np.inf)
        result.append(int(distance.argmin()))
        free[result[-1]] = False
    return np.array(result)


def origin(head: SmallHead, landmarks: np.ndarray) -> np.ndarray:
    """Where the origin of a model with these landmark positions (68, 3) is."""
    return landmarks[[36, 39, 42, 45]].mean(0)


# ----------------------------------------------------------------------------------------------------------- Basel 2009


def bfm2009_numbers(head: SmallHead, trimmed: bool) -> np.ndarray:
    """Where each vertex of the head is among 53,490.

    Landmarks at the model's own places, the rest at free ones outside the mouth, last ones first: their numbers change
    when the inside of the mouth is left out.
    """
    number = np.full(len(head.mean), -1)
    number[head.landmarks] = bfm2009.LANDMARKS_68
    free = bfm2009.outside_mouth() if trimmed else np.ones(bfm2009.VERTEX_COUNT, bool)
    free[list(bfm2009.LANDMARKS_68)] = False
    number[number < 0] = np.flatnonzero(free)[-(number < 0).sum() :]
    return number


def write_bfm2009(folder: Path, head: SmallHead, trimmed: bool = True) -> np.ndarray:
    """``01_MorphableModel.mat``, ``Exp_Pca.bin``, ``std_exp.txt``; returns the numbers of the vertices in 53,490."""
    number = bfm2009_numbers(head, trimmed)
    micrometres = 1e6

    def spread(values: np.ndarray) -> np.ndarray:
        whole = np.zeros((*values.shape[:-2], bfm2009.VERTEX_COUNT, 3), np.float32)
        whole[..., number, :] = values * micrometres
        return whole

    deviation = np.linspace(3, 2, IDENTITIES)
    identity = spread(head.identity / deviation[:, None, None])
    data = {
        "shapeMU": spread(head.mean + (0.01, 0.02, 0.09)).reshape(-1, 1),
        "shapePC": identity.reshape(IDENTITIES, -1).T,
        "shapeEV": deviation[:, None].astype(np.float32),
        "tl": (number[head.triangles] + 1)[:, ::-1].astype(np.float64),
    }
    savemat(folder / bfm2009.MODEL, data, do_compression=True)
    strength = np.linspace(4, 1, EXPRESSIONS).astype(np.float32)
    modes = spread(head.expression / strength[:, None, None])
    if trimmed:
        modes = modes[:, bfm2009.outside_mouth()]
    content = np.concatenate([np.full(modes[0].size, 7.0), modes.ravel()]).astype("<f4")  # a mean that is not used
    (folder / bfm2009.EXPRESSIONS).write_bytes(np.int32(EXPRESSIONS).tobytes() + content.tobytes())
    (folder / bfm2009.DEVIATIONS).write_text(" ".join(f"{value:.9g}" for value in strength))
    return number


def write_bfm2009_front(path: Path, head: SmallHead) -> None:
    """``BFM_model_front.mat`` in decimetres, indices from 1 and, as there, as floats."""
    decimetres = 10
    data = {
        "meanshape": (head.mean * decimetres).reshape(1, -1),
        "meantex": np.full((1, head.mean.size), 128.0),
        "idBase": (head.identity * decimetres).reshape(IDENTITIES, -1).T,
        "exBase": (head.expression * decimetres).reshape(EXPRESSIONS, -1).T,
        "tri": (head.triangles + 1).astype(np.float32),
        "keypoints": (head.landmarks + 1).astype(np.float32)[None],
        "skinmask": np.ones((1, len(head.mean)), np.float32),
    }
    savemat(path, data)


# --------------------------------------------------------------------------------------------------- Basel 2017 and
# 2019


def named_points(head: SmallHead) -> dict[str, np.ndarray]:
    """The positions (metres) under the names of the Basel files, with some that are of no use here."""
    points = {name: head.points[list(which)].mean(0) for name, which in bfm_h5.LANDMARK_NAMES.items()}
    return points | {
        "center.front.trichion": np.array([0, 0.07, 0.0]),
        "left.ear.tragus.tip": np.array([0.08, -0.02, -0.09]),
    }


def write_bfm_h5(
    path: Path, head: SmallHead, landmarks: str = "text", expressions: bool = True, mean: float = 0.0
) -> None:
    """A statismo file in millimetres.

    ``landmarks``: how the JSON is stored, or none. ``mean``: of the expression model, metres.
    """
    millimetres = 1000
    entries = [
        {"id": name, "coordinates": (point * millimetres).tolist()} for name, point in named_points(head).items()
    ]
    text = json.dumps(entries)
    stored = {"text": text, "bytes": np.bytes_(text), "int8": np.frombuffer(text.encode(), np.int8), "none": None}[
        landmarks
    ]
    with h5py.File(path, "w") as file:
        _write_model(file, "shape", head.mean * millimetres, head.identity * millimetres)
        file["shape/representer/cells"] = head.triangles.T.astype(np.int32)
        file["shape/representer/points"] = (head.mean * millimetres).T
        if expressions:
            _write_model(file, "expression", np.full_like(head.mean, mean * millimetres), head.expression * millimetres)
        if stored is not None:
            file["metadata/landmarks/json"] = stored


def _write_model(file: h5py.File, name: str, mean: np.ndarray, modes: np.ndarray) -> None:
    columns = modes.reshape(len(modes), -1).T
    deviation = np.linalg.norm(columns, axis=0)
    file[f"{name}/model/mean"] = mean.ravel().astype(np.float32)
    file[f"{name}/model/pcaBasis"] = (columns / deviation).astype(np.float32)
    file[f"{name}/model/pcaVariance"] = (deviation**2).astype(np.float32)


# ---------------------------------------------------------------------------------------------------------------- FLAME


def flame_arrays(head: SmallHead) -> dict[str, object]:
    """FLAME's dict: expressions from column 300, and a jaw that turns about a joint near the ears."""
    count = len(head.mean)
    directions = np.zeros((count, 3, 300 + EXPRESSIONS), np.float32)
    directions[..., :IDENTITIES] = np.moveaxis(head.identity, 0, 2)
    directions[..., 300:] = np.moveaxis(head.expression, 0, 2)
    motion = np.linalg.norm(head.expression[0], axis=1)
    jaw = motion / motion.max()
    weights = np.zeros((count, 5))
    weights[:, 2] = np.where(head.eyeballs == 0, jaw, 0)
    for side, joint in ((1, 3), (2, 4)):
        weights[head.eyeballs == side, joint] = 1
    weights[:, 0] = 1 - weights.sum(1)
    correctives = np.zeros((count, 3, 36))
    correctives[:, 1, 9 + 5] = 0.002 * jaw  # a little, so that it is not forgotten
    regressor = np.zeros((5, count))
    back = np.abs(head.mean - (0, -0.03, -0.075)).sum(1).argsort()[:40]
    regressor[:, back] = 1 / 40
    return {
        "v_template": head.mean,
        "shapedirs": directions,
        "f": head.triangles.astype(np.uint32),
        "weights": weights,
        "posedirs": correctives,
        "J_regressor": csc_matrix(regressor),
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]]),
        "bs_style": "lbs",
    }
