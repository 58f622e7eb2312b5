"""Which landmarks are fitted, how much each counts, and which pairs measure an opening.

Points that lie on the skin and keep their place on it are used; points that slide along an outline (jaw line, face
oval) are not, because a detector moves them over the surface as the head turns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from manvatar.types import FaceModel, LandmarkScheme


@dataclass(frozen=True)
class FitPoints:
    """The landmarks that take part in a fit."""

    scheme: LandmarkScheme
    index: Int[Tensor, "points"]  # into the scheme's landmarks
    weight: Float[Tensor, "points"]  # (0, 1]
    pairs: Int[Tensor, "pairs 2"]  # positions in ``index``: upper and lower lid or lip


_LIPS = (
    (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 146, 91, 181, 84, 17, 314, 405, 321, 375)  # outer
    + (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 95, 88, 178, 87, 14, 317, 402, 318, 324)  # inner
)
_LIDS = (
    (33, 7, 163, 144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173)  # subject's right
    + (263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398)
)
_BROWS = (46, 53, 52, 65, 55, 70, 63, 105, 66, 107, 276, 283, 282, 295, 285, 300, 293, 334, 296, 336)
_NOSE = (168, 6, 197, 195, 5, 4, 1, 98, 97, 2, 326, 327, 48, 278, 115, 344, 129, 358, 64, 294)
_CHEEKS_CHIN = (9, 151, 108, 337, 117, 346, 50, 280, 205, 425, 199, 200, 187, 411)
_PAIRS_478 = ((160, 144), (159, 145), (158, 153), (385, 380), (386, 374), (387, 373)) + (
    (81, 178),
    (82, 87),
    (13, 14),
    (312, 317),
    (311, 402),
)
_PAIRS_68 = ((37, 41), (38, 40), (43, 47), (44, 46), (61, 67), (62, 66), (63, 65))


def _weights_478() -> dict[int, float]:
    # Brows and cheeks have no sharp feature to lie on: detectors place them loosely.
    weight = dict.fromkeys(_LIPS + _LIDS + _NOSE, 1.0)
    weight.update(dict.fromkeys(_BROWS, 0.5))
    weight.update(dict.fromkeys(_CHEEKS_CHIN, 0.3))
    return weight


def _weights_68() -> dict[int, float]:
    weight = dict.fromkeys(range(17, 68), 1.0)
    weight.update(dict.fromkeys((7, 8, 9), 0.15))  # the chin slides little; the rest of the jaw line is an outline
    return weight


def fit_points(face_model: FaceModel, scheme: LandmarkScheme, leave_out: tuple[int, ...] = ()) -> FitPoints:
    """The points of ``scheme`` that ``face_model`` has and the tracker trusts.

    Args:
        leave_out: landmarks of the scheme not to fit, for held-out scores. Pairs that use one are dropped.

    Raises:
        ValueError: the model has no embedding of ``scheme``, or fewer than six usable points.
    """
    weights, pairs = (_weights_478(), _PAIRS_478) if scheme == "mediapipe478" else (_weights_68(), _PAIRS_68)
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
        torch.tensor(usable, dtype=torch.long).reshape(-1, 2),
    )
