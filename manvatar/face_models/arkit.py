"""Apple's 52 blendshapes and the coefficients of any face model: a linear map there, and one back.

Forwards, a model's coefficients are ``weights @ coefficients`` (:class:`manvatar.types.ArkitMap`). The sources:

* The builtin head: its modes have ARKit's names; :data:`NAMED` says what a full activation is in standard deviations.
* A model whose file holds the blendshapes by name (ICT-FaceKit): exact least squares over its vertices.
* Any other: the builtin head shows each blendshape, and the model follows with as many landmarks as both have. With
  displacements r (K, 3) of the builtin head's landmarks, turned and scaled onto the model, and modes B (E, K, 3), the
  coefficients are the b that minimise |b B - r|^2 / s^2 + |b|^2 / p^2, with ``NOISE_M`` = s and ``SPREAD_SD`` = p.
  Least squares come out too small where the two models move differently, so b is enlarged until it moves as far as r
  does, at most ``MOST_ENLARGED`` times: a full blink of one model is a full blink of the other.

Backwards, weights w in [0, 1] minimise |w C B - b B|^2 + ridge |w|^2. Blendshapes are no basis (``jawLeft`` is nearly
``-jawRight``), so a linear map alone gives negative activations; :func:`weights_of` solves non-negative least squares
(Lawson and Hanson 1974), and :func:`linear_weights` is the plain matrix.

Lids and gaze of their own (:mod:`manvatar.face_models.channels`) follow by name.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import nnls
from torch import Tensor

from manvatar.face_models import builtin
from manvatar.face_models.channels import GAZE_SD_RAD, SHUT
from manvatar.face_models.embedding import embedded_points, similarity
from manvatar.types import EYE_CHANNELS, ArkitMap, FaceModel, LandmarkScheme, Track

_SIDED = (
    "eyeBlink",
    "eyeLookDown",
    "eyeLookIn",
    "eyeLookOut",
    "eyeLookUp",
    "eyeSquint",
    "eyeWide",
)
ARKIT_NAMES: tuple[str, ...] = (
    *(f"{name}Left" for name in _SIDED),
    *(f"{name}Right" for name in _SIDED),
    *("jawForward", "jawRight", "jawLeft", "jawOpen"),
    *("mouthClose", "mouthFunnel", "mouthPucker", "mouthRight", "mouthLeft"),
    *("mouthSmileLeft", "mouthSmileRight", "mouthFrownLeft", "mouthFrownRight", "mouthDimpleLeft", "mouthDimpleRight"),
    *("mouthStretchLeft", "mouthStretchRight", "mouthRollLower", "mouthRollUpper"),
    *("mouthShrugLower", "mouthShrugUpper", "mouthPressLeft", "mouthPressRight"),
    *("mouthLowerDownLeft", "mouthLowerDownRight", "mouthUpperUpLeft", "mouthUpperUpRight"),
    *("browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight"),
    *("cheekPuff", "cheekSquintLeft", "cheekSquintRight", "noseSneerLeft", "noseSneerRight", "tongueOut"),
)
# Of a blink: how much further than usual a wide eye is open, how far a lid goes along with eyes that look down or up.
_WIDE, _LID_DOWN, _LID_UP = 0.35, 0.6, 0.3
LOOK_RAD = 0.5  # what an eye turns when one of its eyeLook blendshapes is fully on
NOISE_M, SPREAD_SD = 0.2e-3, 3.0
MOST_ENLARGED = 2.0
RIDGE_M = 0.05e-3  # what a full activation costs in the map backwards, as a displacement of every landmark

# A full activation in standard deviations of the builtin head's modes; {} stands for both sides. How large a full
# activation is was measured on ICT-FaceKit's blendshapes (least squares over 478 landmarks), and rounded.
_BOTH_SIDES: dict[str, dict[str, float]] = {
    "eyeBlink{}": {"eyeBlink{}": 2.0},
    "eyeLookDown{}": {"eyeBlink{}": 1.2},
    "eyeLookUp{}": {"eyeBlink{}": -0.6},
    "eyeWide{}": {"eyeBlink{}": -0.7},
    "eyeSquint{}": {"eyeSquint": 0.65},
    "mouthSmile{}": {"mouthSmile{}": 2.3},
    "mouthFrown{}": {"mouthFrown{}": 1.1},
    "mouthDimple{}": {"mouthStretch{}": 0.8, "mouthSmile{}": 0.5},
    "mouthStretch{}": {"mouthStretch{}": 1.5},
    "mouthPress{}": {"mouthPress": 1.0},
    "mouthLowerDown{}": {"mouthLowerDown{}": 2.0},
    "mouthUpperUp{}": {"mouthUpperUp{}": 3.0},
    "browDown{}": {"browDown{}": 1.2},
    "browOuterUp{}": {"browOuterUp{}": 1.9},
    "cheekSquint{}": {"eyeSquint": 0.5, "mouthSmile{}": 0.3},
    "noseSneer{}": {"noseSneer": 1.2},
}
NAMED: dict[str, dict[str, float]] = {
    name.format(side): {mode.format(side): value for mode, value in modes.items()}
    for name, modes in _BOTH_SIDES.items()
    for side in ("Left", "Right")
} | {
    "jawForward": {"jawForward": 3.9},
    "jawLeft": {"jawLeft": 2.9},
    "jawRight": {"jawLeft": -2.9},
    "jawOpen": {"jawOpen": 3.5},
    "mouthClose": {"mouthClose": 6.0},
    "mouthFunnel": {"mouthFunnel": 2.7},
    "mouthPucker": {"mouthPucker": 2.0},
    "mouthLeft": {"mouthLeft": 4.3},
    "mouthRight": {"mouthLeft": -4.3},
    "mouthRollLower": {"mouthRollLower": 3.4},
    "mouthRollUpper": {"mouthRollUpper": 4.6},
    "mouthShrugLower": {"mouthShrugLower": 2.7},
    "mouthShrugUpper": {"mouthShrugUpper": 2.4},
    "browInnerUp": {"browInnerUp": 1.2},
    "cheekPuff": {"cheekPuff": 2.5},
}


def _channel_rows() -> dict[str, dict[str, float]]:
    look = LOOK_RAD / GAZE_SD_RAD / 2  # the channel is the mean of both eyes
    rows: dict[str, dict[str, float]] = {}
    for side, outwards in (("Left", 1), ("Right", -1)):
        lid = f"eyelid{side}"
        rows |= {
            f"eyeBlink{side}": {lid: SHUT},
            f"eyeWide{side}": {lid: -_WIDE * SHUT},
            f"eyeSquint{side}": {lid: 0.3 * SHUT},
            f"eyeLookDown{side}": {lid: _LID_DOWN * SHUT, "gazePitch": -look},
            f"eyeLookUp{side}": {lid: -_LID_UP * SHUT, "gazePitch": look},
            f"eyeLookOut{side}": {"gazeYaw": outwards * look},
            f"eyeLookIn{side}": {"gazeYaw": -outwards * look},
        }
    return rows


def arkit_map(model: FaceModel) -> ArkitMap:
    """What the 52 blendshapes are in the coefficients of ``model``, lids and gaze of their own not among them."""
    if model.arkit is not None:
        return model.arkit
    if model.id == builtin.load().id:
        coefficients = torch.from_numpy(_table(NAMED, model.expression_names)).float()
        return ArkitMap(coefficients, (coefficients == 0).all(1).float(), "named")
    return fitted_map(model)


def fitted_map(model: FaceModel) -> ArkitMap:
    """The map by landmarks alone, as described above; also for models that have a better one."""
    source = builtin.load()
    shapes, modes = _displacements(source, model)
    wanted = np.einsum("ae,ekc->akc", _table(NAMED, source.expression_names), shapes).reshape(len(ARKIT_NAMES), -1)
    modes = modes.reshape(len(modes), -1)
    normal = modes @ modes.T + (NOISE_M / SPREAD_SD) ** 2 * np.eye(len(modes))
    coefficients = np.linalg.solve(normal, modes @ wanted.T).T
    size = np.linalg.norm(wanted, axis=1)
    smaller = size / np.maximum(np.linalg.norm(coefficients @ modes, axis=1), 1e-12)
    coefficients *= np.clip(smaller, 1.0, MOST_ENLARGED)[:, None]
    left = np.linalg.norm(coefficients @ modes - wanted, axis=1)
    residual = np.divide(left, size, out=np.ones_like(size), where=size > 0)
    return ArkitMap(torch.from_numpy(coefficients).float(), torch.from_numpy(residual).float(), "fitted")


def coefficient_table(
    found: ArkitMap, expression_names: tuple[str, ...], model_names: tuple[str, ...]
) -> Float[Tensor, "52 expression"]:
    """The map for ``expression_names``: the model's own ``model_names`` first, channels of lids and gaze after."""
    result = torch.from_numpy(_table(_channel_rows(), expression_names)).float()
    for column, name in enumerate(expression_names):
        if name in model_names:
            result[:, column] = found.coefficients[:, model_names.index(name)]
    return result


def track_table(model: FaceModel, track: Track) -> Float[Tensor, "52 expression"] | None:
    """:func:`coefficient_table` for the coefficients of a track; None when ``model`` is another than the track's."""
    if model.id != track.face_model:
        return None
    return coefficient_table(arkit_map(model), track.expression_names, model.expression_names)


def builtin_table(expression_names: tuple[str, ...]) -> Float[Tensor, "52 expression"]:
    """:func:`coefficient_table` of the builtin head, which needs no model at hand."""
    rows = _channel_rows()
    return torch.from_numpy(
        _table({name: NAMED.get(name, {}) | rows.get(name, {}) for name in ARKIT_NAMES}, expression_names)
    ).float()


def linear_weights(model: FaceModel, found: ArkitMap) -> Float[Tensor, "expression 52"]:
    """The matrix back, ``weights = expression @ matrix``: least squares with a ridge, activations of any sign."""
    root, given = _metric_root(model), found.coefficients.double().numpy()
    design = given @ root
    normal = design @ design.T + RIDGE_M**2 * np.eye(len(design))
    return torch.from_numpy(np.linalg.solve(normal, design @ root.T).T).float()


def weights_of(
    expression: Float[Tensor, "frames expression"], model: FaceModel, found: ArkitMap
) -> Float[Tensor, "frames 52"]:
    """Activations in [0, 1] that show what the coefficients show, frame by frame. Not differentiable.

    A mesh does not tell a lid that looks down from one that closes, so ``eyeLook...`` stay 0.

    Args:
        expression: of ``model``, standard deviations; channels of lids and gaze left out.
    """
    root = _metric_root(model)
    own = [index for index, name in enumerate(ARKIT_NAMES) if not name.startswith("eyeLook")]
    design = found.coefficients.double().numpy()[own] @ root
    matrix = np.concatenate([design.T, RIDGE_M * np.eye(len(design))])
    right = expression.double().numpy() @ root
    result = np.zeros((len(right), len(ARKIT_NAMES)))
    for row, wanted in enumerate(right):
        result[row, own] = nnls(matrix, np.concatenate([wanted, np.zeros(len(design))]))[0]
    return torch.from_numpy(result).float().clamp(0, 1)


def channel_weights(weights: Float[Tensor, "frames 52"], track: Track) -> Float[Tensor, "frames 52"]:
    """Activations with lids and gaze taken from the track's own channels, where it has them."""
    result, names = weights.clone(), track.expression_names

    def put(name: str, values: Float[Tensor, "frames"]) -> Float[Tensor, "frames"]:
        result[:, ARKIT_NAMES.index(name)] = values.clamp(0, 1)
        return values.clamp(0, 1)

    for side, outwards in (("Left", 1), ("Right", -1)):
        looking = torch.zeros(len(result))  # how far the lid goes along with the gaze
        if "gazeYaw" in names:
            yaw, pitch = (track.expression[:, names.index(n)] * GAZE_SD_RAD / LOOK_RAD for n in EYE_CHANNELS[2:])
            put(f"eyeLookOut{side}", outwards * yaw)
            put(f"eyeLookIn{side}", -outwards * yaw)
            looking = _LID_DOWN * put(f"eyeLookDown{side}", -pitch) - _LID_UP * put(f"eyeLookUp{side}", pitch)
        if f"eyelid{side}" in names:
            lid = track.expression[:, names.index(f"eyelid{side}")] / SHUT - looking
            put(f"eyeBlink{side}", lid)
            put(f"eyeWide{side}", -lid / _WIDE)
    return result


def unexplained(
    weights: Float[Tensor, "frames 52"],
    expression: Float[Tensor, "frames expression"],
    model: FaceModel,
    found: ArkitMap,
) -> float:
    """Share of the landmarks' displacement (rms) that the way to weights and back loses."""
    root = _metric_root(model)
    there = expression.double().numpy() @ root
    back = (weights @ found.coefficients).double().numpy() @ root
    return float(np.linalg.norm(back - there) / max(np.linalg.norm(there), 1e-12))


def _table(rows: dict[str, dict[str, float]], names: tuple[str, ...]) -> np.ndarray:
    """(52, names) float64"""
    result = np.zeros((len(ARKIT_NAMES), len(names)))
    for name, modes in rows.items():
        for mode, value in modes.items():
            if mode in names:
                result[ARKIT_NAMES.index(name), names.index(mode)] = value
    return result


def _displacements(source: FaceModel, target: FaceModel) -> tuple[np.ndarray, np.ndarray]:
    """Expression modes of both at the landmarks that both have, those of ``source`` as large and turned as the target.

    Landmarks count by root mean square: (E, K, 3) / sqrt(K).
    """
    scheme = _scheme(source, target)
    seen = ((source.embedding(scheme).weight > 0) & (target.embedding(scheme).weight > 0)).numpy()
    scale, rotation, _ = similarity(embedded_points(source, scheme)[seen], embedded_points(target, scheme)[seen])
    first, second = (
        m.landmark_bases(scheme)[2].double().numpy()[:, seen] / np.sqrt(seen.sum()) for m in (source, target)
    )
    return scale * first @ rotation.T, second


def _scheme(*models: FaceModel) -> LandmarkScheme:
    known = [{embedding.scheme for embedding in model.embeddings} for model in models]
    return "mediapipe478" if all("mediapipe478" in schemes for schemes in known) else "ibug68"


def _metric_root(model: FaceModel) -> np.ndarray:
    """(E, E) L with L L^T = mean over landmarks of the products of displacements, m^2."""
    scheme = _scheme(model)
    seen = (model.embedding(scheme).weight > 0).numpy()
    modes = model.landmark_bases(scheme)[2].double().numpy()[:, seen].reshape(len(model.expression_names), -1)
    values, vectors = np.linalg.eigh(modes @ modes.T / seen.sum())
    return vectors * np.sqrt(np.maximum(values, 0))
