"""Where the iBUG-68 and the MediaPipe landmarks are on the builtin head."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from manvatar.face_models.builtin.head import PARTS, Head
from manvatar.face_models.builtin.mediapipe478 import POINTS_MM
from manvatar.face_models.embedding import embed
from manvatar.types import LandmarkEmbedding

# The subject's right half in the order of the scheme, (x, y, z) mm; the rest is mirrored. z is a first guess: points
# go to the closest skin. Jaw outline from the ear to the chin:
_JAW = np.array((
    (-72, -2, -62), (-70, -19, -60), (-67, -37, -56), (-63.5, -54, -51), (-58.5, -71, -43), (-50, -87, -30),
    (-37, -99.5, -15), (-20, -109, -1), (0, -113, 9),
))  # fmt: skip
_BROW = np.array(((-55, 17, -8), (-47, 23, 3), (-37, 25.5, 11), (-26, 24.5, 15), (-14, 21, 19)))  # outer to inner
_BRIDGE = np.array(((0, 4, 17), (0, -9, 23), (0, -22, 31), (0, -35, 40)))
_BASE = np.array(((-13.5, -45, 22), (-7, -46.8, 23.5), (0, -47.5, 24)))
_UPPER_BORDER = np.array(((-16, -63.8, 21), (-6.5, -60.6, 26), (0, -61.6, 26.5)))
_LOWER_BORDER = np.array(((-15.5, -75.5, 18), (-8, -78.2, 23), (0, -78.8, 24)))  # 59, 58, 57

# MediaPipe's points on either side of the slits, from the subject's right. Those of the outer edge of a lip are near
# the slit too, so all of them keep to their own side of it.
MEDIAPIPE_MARGINS = {
    ("mouth", "upper"): (191, 80, 81, 82, 13, 312, 311, 310, 415),
    ("mouth", "lower"): (95, 88, 178, 87, 14, 317, 402, 318, 324),
    ("right_eye", "upper"): (246, 161, 160, 159, 158, 157, 173),
    ("right_eye", "lower"): (7, 163, 144, 145, 153, 154, 155),
    ("left_eye", "upper"): (398, 384, 385, 386, 387, 388, 466),
    ("left_eye", "lower"): (382, 381, 380, 374, 373, 390, 249),
}
MEDIAPIPE_UPPER_LIP = (*MEDIAPIPE_MARGINS["mouth", "upper"], 185, 40, 39, 37, 0, 267, 269, 270, 409)
MEDIAPIPE_LOWER_LIP = (*MEDIAPIPE_MARGINS["mouth", "lower"], 146, 91, 181, 84, 17, 314, 405, 321, 375)
MEDIAPIPE_IRIS = tuple(range(468, 478))


def embedding_478(head: Head) -> LandmarkEmbedding:
    """The 478 points of the table in ``mediapipe478.py``, which ``tools/embed_mediapipe478.py`` has measured.

    Points that are by their definition on the edge of a lid or on the inner edge of a lip are put exactly there; the
    network's habit of seeing lids a little too open is left to the tracker's personal offsets.
    """
    triples = [triple for triple in POINTS_MM.replace("\n", ";").split(";") if triple.strip()]
    points = np.array([triple.split(",") for triple in triples], float)
    mouth = head.skin.rows["mouth"]
    groups = [
        (MEDIAPIPE_UPPER_LIP, _on_side(head, mouth, "upper")),
        (MEDIAPIPE_LOWER_LIP, _on_side(head, mouth, "lower")),
        (MEDIAPIPE_IRIS, _within(head, "left_eyeball", "right_eyeball")),
    ]
    for (slit, side), landmarks in MEDIAPIPE_MARGINS.items():
        row = mouth if slit == "mouth" else head.skin.rows["lids"]
        points[list(landmarks)] = _snapped(points[list(landmarks)], _slit_edge(head, slit, side))
        groups.append((landmarks, _on_side(head, row, side)))
    embedding = embed("mediapipe478", points, head.vertices, head.triangles, allowed=_within(head, *_SKIN))
    return _on_sides(head, embedding, points, groups)


def embedding_68(head: Head) -> LandmarkEmbedding:
    """The 68 points; corners and margins of the slits are vertices."""
    skin, v = head.skin, head.vertices
    points = np.zeros((68, 3))
    points[0:9], points[9:17] = _JAW, _mirror(_JAW[:-1])
    points[17:22], points[22:27] = _BROW, _mirror(_BROW)
    points[27:31] = _BRIDGE
    points[31:34], points[34:36] = _BASE, _mirror(_BASE[:-1])
    eye = _margin(head, "right_eye", (0.0, 0.30, 0.68, 1.0))  # from the outer corner
    points[36:40] = eye[0]
    points[[41, 40]] = eye[1][1:3]
    left = _margin(head, "left_eye", (0.0, 0.32, 0.70, 1.0))  # from the inner corner
    points[42:46] = left[0]
    points[[47, 46]] = left[1][1:3]
    loop = skin.loops["mouth"]
    row = skin.rows["mouth"]
    ends = v[[loop[0], skin.upper[row, int(skin.grid[loop, 0].max())]]]
    points[48], points[54] = ends
    points[49:52], points[52:54] = _UPPER_BORDER, _mirror(_UPPER_BORDER[:-1])
    points[57:60] = _LOWER_BORDER[::-1]
    points[55:57] = _mirror(_LOWER_BORDER[:-1])[::-1]
    inner = np.array([-23.0, -8, 0, 8, 23])
    points[60:65] = _on_row(v[skin.upper[row]], inner)
    points[65:68] = _on_row(v[skin.lower[row]], inner[3:0:-1])
    embedding = embed("ibug68", points, head.vertices, head.triangles, allowed=_within(head, *_SKIN))
    sides = ((range(60, 65), _on_side(head, row, "upper")), (range(65, 68), _on_side(head, row, "lower")))
    return _on_sides(head, embedding, points, sides)


_SKIN = ("face", "skull", "neck")


def _within(head: Head, *parts: str) -> np.ndarray:
    """Which triangles (T,) belong to the named parts."""
    return np.isin(head.part, [PARTS.index(name) for name in parts])[head.triangles].all(1)


def _mirror(points: np.ndarray) -> np.ndarray:
    """The other side, in reversed order."""
    return points[::-1] * (-1, 1, 1)


def _on_side(head: Head, row: int, side: str) -> np.ndarray:
    """Which triangles (T,) of the skin grid are above (``upper``) or below (``lower``) a row with slits."""
    vertices = head.skin.upper[: row + 1] if side == "upper" else head.skin.lower[row:]
    return np.isin(head.triangles, vertices).all(1)


def _slit_edge(head: Head, slit: str, side: str) -> np.ndarray:
    """Points (N, 3) along one edge of a slit from the subject's right corner to the left."""
    skin = head.skin
    columns = skin.grid[skin.loops[slit], 0].astype(int)
    row = skin.rows["mouth" if slit == "mouth" else "lids"]
    edges = skin.upper if side == "upper" else skin.lower
    return head.vertices[edges[row, columns.min() : columns.max() + 1]]


def _snapped(points: np.ndarray, line: np.ndarray) -> np.ndarray:
    """The closest points of a polyline (N, 3), tried at a fiftieth of its links."""
    fine = np.linspace(0, len(line) - 1, 50 * (len(line) - 1) + 1)
    samples = np.stack([np.interp(fine, np.arange(len(line)), line[:, k]) for k in range(3)], 1)
    return samples[np.linalg.norm(samples - points[:, None], axis=2).argmin(1)]


def _margin(head: Head, name: str, shares: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Points of the upper and the lower margin at shares of the width from the subject's right corner to the left."""
    upper, lower = _slit_edge(head, name, "upper"), _slit_edge(head, name, "lower")
    x = upper[0, 0] + np.array(shares) * (upper[-1, 0] - upper[0, 0])
    return _on_row(upper, x), _on_row(lower, x)


def _on_row(points: np.ndarray, x: np.ndarray) -> np.ndarray:
    front = points[(points[:, 2] > -20) & (np.abs(points[:, 0]) < 60)]
    return np.stack([np.interp(x, front[:, 0], front[:, k]) for k in range(3)], 1)


def _on_sides(
    head: Head, embedding: LandmarkEmbedding, points: np.ndarray, groups: Iterable[tuple[Sequence[int], np.ndarray]]
) -> LandmarkEmbedding:
    """The same, each group's landmarks moved to the triangles it may use (lips touch: the closest may be wrong)."""
    triangle, barycentric = embedding.triangle.clone(), embedding.barycentric.clone()
    for landmarks, allowed in groups:
        which = list(landmarks)
        own = embed(embedding.scheme, points[which], head.vertices, head.triangles, allowed=allowed)
        triangle[which], barycentric[which] = own.triangle, own.barycentric
    return LandmarkEmbedding(embedding.scheme, triangle, barycentric, embedding.weight)
