"""Landmark numbering: MediaPipe's 478 points, the iBUG 68 points, the map between them, and named subsets.

"Right" and "left" are the subject's own. The map from 478 to 68 points is the one with the smallest error among those
in public use, measured against detections of the original 68-point scheme (inner points 3.8 % of the distance of the
outer eye corners, 2.8 % without constant bias); jaw points lie on the surface, not on the visible outline.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from manvatar.types import Landmarks

IBUG68_FROM_MEDIAPIPE478: tuple[int, ...] = (
    *(127, 234, 132, 58, 172, 150, 149, 148, 152, 377, 378, 379, 397, 288, 361, 454, 356),  # jaw, right to left
    *(70, 63, 105, 66, 107, 336, 296, 334, 293, 300),  # brows
    *(168, 197, 5, 4, 98, 97, 2, 326, 327),  # nose
    *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),  # eyes
    *(61, 39, 37, 0, 267, 269, 291, 321, 314, 17, 84, 91),  # outer lips
    *(78, 82, 13, 312, 308, 317, 14, 87),  # inner lips
)

# ------------------------------------------------------------------------------------------------------------ iBUG 68

IBUG68_JAW = tuple(range(17))
IBUG68_RIGHT_BROW = tuple(range(17, 22))
IBUG68_LEFT_BROW = tuple(range(22, 27))
IBUG68_NOSE = tuple(range(27, 36))
IBUG68_RIGHT_EYE = tuple(range(36, 42))
IBUG68_LEFT_EYE = tuple(range(42, 48))
IBUG68_OUTER_LIPS = tuple(range(48, 60))
IBUG68_INNER_LIPS = tuple(range(60, 68))
IBUG68_INTERIOR = tuple(range(17, 68))
# (upper, lower) pairs whose distance says how far a lid or the mouth is open
IBUG68_EYELID_PAIRS = ((37, 41), (38, 40), (43, 47), (44, 46))
IBUG68_LIP_PAIRS = ((61, 67), (62, 66), (63, 65))
IBUG68_APERTURE_PAIRS = IBUG68_EYELID_PAIRS + IBUG68_LIP_PAIRS

# ------------------------------------------------------------------------------------------------------ MediaPipe 478

MEDIAPIPE_OVAL = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152),
    *(148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
MEDIAPIPE_RIGHT_UPPER_LID = (33, 246, 161, 160, 159, 158, 157, 173, 133)
MEDIAPIPE_RIGHT_LOWER_LID = (33, 7, 163, 144, 145, 153, 154, 155, 133)
MEDIAPIPE_LEFT_UPPER_LID = (263, 466, 388, 387, 386, 385, 384, 398, 362)
MEDIAPIPE_LEFT_LOWER_LID = (263, 249, 390, 373, 374, 380, 381, 382, 362)
MEDIAPIPE_RIGHT_BROW = (70, 63, 105, 66, 107, 46, 53, 52, 65, 55)
MEDIAPIPE_LEFT_BROW = (300, 293, 334, 296, 336, 276, 283, 282, 295, 285)
MEDIAPIPE_OUTER_UPPER_LIP = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291)
MEDIAPIPE_OUTER_LOWER_LIP = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291)
MEDIAPIPE_INNER_UPPER_LIP = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
MEDIAPIPE_INNER_LOWER_LIP = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
MEDIAPIPE_NOSE_LINE = (168, 6, 197, 195, 5, 4, 1, 2)
MEDIAPIPE_RIGHT_IRIS = (468, 469, 470, 471, 472)  # centre, then four points of the rim
MEDIAPIPE_LEFT_IRIS = (473, 474, 475, 476, 477)
# Points over the sockets, nose and forehead that hardly move with expression (for a rigid pose).
MEDIAPIPE_STABLE = (4, 6, 10, 33, 54, 67, 117, 119, 121, 127, 129, 132, 133, 136, 143, 147, 198, 205, 263, 284, 297) + (
    *(346, 348, 350, 356, 358, 361, 362, 365, 372, 376, 420, 425),
)
MEDIAPIPE_EYELID_PAIRS = tuple(
    (upper, lower)
    for uppers, lowers in (
        (MEDIAPIPE_RIGHT_UPPER_LID, MEDIAPIPE_RIGHT_LOWER_LID),
        (MEDIAPIPE_LEFT_UPPER_LID, MEDIAPIPE_LEFT_LOWER_LID),
    )
    for upper, lower in zip(uppers[2:7], lowers[2:7], strict=True)
)
MEDIAPIPE_LIP_PAIRS = tuple(zip(MEDIAPIPE_INNER_UPPER_LIP[2:9], MEDIAPIPE_INNER_LOWER_LIP[2:9], strict=True))
MEDIAPIPE_APERTURE_PAIRS = MEDIAPIPE_EYELID_PAIRS + MEDIAPIPE_LIP_PAIRS


def ibug68_points(points: Float[Tensor, "*frames 478 dims"]) -> Float[Tensor, "*frames 68 dims"]:
    """The 68 points among MediaPipe's 478, in the image or in space."""
    return points[..., list(IBUG68_FROM_MEDIAPIPE478), :]


def as_ibug68(landmarks: Landmarks) -> Landmarks:
    """The same landmarks in the 68-point scheme (unchanged if they are in it already)."""
    if landmarks.scheme == "ibug68":
        return landmarks
    keep = list(IBUG68_FROM_MEDIAPIPE478)
    return Landmarks(landmarks.points_px[:, keep], landmarks.confidence[:, keep], landmarks.detected, "ibug68")
