"""Which landmarks are fitted, how much each counts, and which pairs measure an opening.

Points that lie on the skin and keep their place on it are used; points that slide along an outline (jaw line, face
oval) are not, because a detector moves them over the surface as the head turns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from manvatar.landmarks import schemes
from manvatar.types import FaceModel, LandmarkScheme


@dataclass(frozen=True)
class FitPoints:
    """The landmarks that take part in a fit."""

    scheme: LandmarkScheme
    index: Int[Tensor, "points"]  # into the scheme's landmarks
    weight: Float[Tensor, "points"]  # (0, 1]: what a point counts at least
    most: Float[Tensor, "points"]  # and where its errors are its own
    pairs: Int[Tensor, "pairs 2"]  # positions in ``index``: upper and lower lid or lip


_LIPS = (
    *schemes.MEDIAPIPE_OUTER_UPPER_LIP,
    *schemes.MEDIAPIPE_OUTER_LOWER_LIP,
    *schemes.MEDIAPIPE_INNER_UPPER_LIP,
    *schemes.MEDIAPIPE_INNER_LOWER_LIP,
)
_LIDS = (
    *schemes.MEDIAPIPE_RIGHT_UPPER_LID,
    *schemes.MEDIAPIPE_RIGHT_LOWER_LID,
    *schemes.MEDIAPIPE_LEFT_UPPER_LID,
    *schemes.MEDIAPIPE_LEFT_LOWER_LID,
)
_BROWS = schemes.MEDIAPIPE_RIGHT_BROW + schemes.MEDIAPIPE_LEFT_BROW
_NOSE = (*schemes.MEDIAPIPE_NOSE_LINE, 98, 97, 326, 327, 48, 278, 115, 344, 129, 358, 64, 294)
_CHEEKS_CHIN = (9, 151, 108, 337, 117, 346, 50, 280, 205, 425, 187, 411, 199, 200)
# Further points on plain skin, spread as evenly as 120 can be (farthest point sampling on the builtin head).
_SKIN = (
    *(8, 20, 31, 34, 35, 36, 57, 68, 69, 71, 100, 101, 104, 106, 111, 116, 118, 121, 123, 124, 134, 135, 137, 138, 139),
    *(140, 142, 143, 147, 156, 165, 169, 170, 171, 177, 189, 192, 194, 201, 202, 204, 206, 207, 209, 210, 212, 213),
    *(214, 215, 216, 217, 221, 222, 223, 227, 229, 230, 236, 237, 245, 250, 261, 264, 265, 266, 287, 298, 299, 301),
    *(329, 330, 333, 335, 340, 345, 347, 350, 352, 353, 363, 364, 366, 367, 368, 369, 371, 372, 376, 383, 391, 394),
    *(395, 396, 401, 413, 416, 418, 421, 422, 424, 426, 427, 429, 430, 432, 433, 434, 435, 436, 437, 441, 442, 443),
    *(446, 447, 449, 450, 456, 457, 465),
)

_CHIN_68 = (7, 8, 9)  # slides little; the rest of the jaw line is an outline


def _weights_478(skin_weight: float) -> dict[int, float]:
    weight = dict.fromkeys(_SKIN, skin_weight) if skin_weight > 0 else {}
    # Brows and cheeks have no sharp feature to lie on: detectors place them loosely.
    weight.update(dict.fromkeys(_LIPS + _LIDS + _NOSE, 1.0))
    weight.update(dict.fromkeys(_BROWS, 0.5))
    weight.update(dict.fromkeys(_CHEEKS_CHIN, 0.3))
    return weight


def _weights_68() -> dict[int, float]:
    weight = dict.fromkeys(schemes.IBUG68_INTERIOR, 1.0)
    weight.update(dict.fromkeys(_CHIN_68, 0.15))
    return weight


def fit_points(
    face_model: FaceModel, scheme: LandmarkScheme, leave_out: tuple[int, ...] = (), skin_weight: float = 0.0
) -> FitPoints:
    """The points of ``scheme`` that ``face_model`` has and the tracker trusts.

    Args:
        leave_out: landmarks of the scheme not to fit, for held-out scores. Pairs that use one are dropped.
        skin_weight: least weight of the points on plain skin, which only ``mediapipe478`` has; 0 leaves them out.

    Raises:
        ValueError: the model has no embedding of ``scheme``, or fewer than six usable points.
    """
    if scheme == "mediapipe478":
        weights, pairs, outline = _weights_478(skin_weight), schemes.MEDIAPIPE_APERTURE_PAIRS, ()
    else:
        weights, pairs, outline = _weights_68(), schemes.IBUG68_APERTURE_PAIRS, _CHIN_68
    trust = face_model.embedding(scheme).weight
    kept = [k for k in sorted(weights) if trust[k] > 0 and k not in leave_out]
    if len(kept) < 6:
        raise ValueError(f"fit_points: {face_model.id} has {len(kept)} usable {scheme} points, at least 6 are needed")
    position = {landmark: n for n, landmark in enumerate(kept)}
    usable = [(position[i], position[j]) for i, j in pairs if i in position and j in position]
    return FitPoints(
        scheme,
        torch.tensor(kept),
        torch.tensor([weights[k] * float(trust[k]) for k in kept], dtype=torch.float64),
        torch.tensor([(weights[k] if k in outline else 1.0) * float(trust[k]) for k in kept], dtype=torch.float64),
        torch.tensor(usable, dtype=torch.long).reshape(-1, 2),
    )
