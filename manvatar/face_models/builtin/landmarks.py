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

# MediaPipe's points on the inner and outer edge of either lip; those of an edge keep to their own side of the slit.
MEDIAPIPE_UPPER_LIP = (191, 80, 81, 82, 13, 312, 311, 310, 415, 185, 40, 39, 37, 0, 267, 269, 270, 409)
MEDIAPIPE_LOWER_LIP = (95, 88, 178, 87, 14, 317, 402, 318, 324, 146, 91, 181, 84, 17, 314, 405, 321, 375)
MEDIAPIPE_IRIS = tuple(range(468, 478))


def embedding_478(head: Head) -> LandmarkEmbedding:
    """The 478 points of the table in ``mediapipe478.py``, which ``tools/embed_mediapipe478.py`` has measured."""
    points = np.array(
        [triple.split(",") for triple in POINTS_MM.replace("\n", ";").split(";") if triple.strip()], float
    )
    row, skin = head.skin.rows["mouth"], head.skin
    balls = _within(head, "left_eyeball", "right_eyeball")
    upper_only = np.isin(head.triangles, skin.upper[: row + 1]).all(1)
    lower_only = np.isin(head.triangles, skin.lower[row:]).all(1)
    embedding = embed("mediapipe478", points, head.vertices, head.triangles, allowed=_within(head, *_SKIN))
    return _on_sides(
        head,
        embedding,
        points,
        ((MEDIAPIPE_UPPER_LIP, upper_only), (MEDIAPIPE_LOWER_LIP, lower_only), (MEDIAPIPE_IRIS, balls)),
    )


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
    upper_only = np.isin(head.triangles, skin.upper[: row + 1]).all(1)
    lower_only = np.isin(head.triangles, skin.lower[row:]).all(1)
    embedding = embed("ibug68", points, head.vertices, head.triangles, allowed=_within(head, *_SKIN))
    return _on_sides(head, embedding, points, ((range(60, 65), upper_only), (range(65, 68), lower_only)))


_SKIN = ("face", "skull", "neck")


def _within(head: Head, *parts: str) -> np.ndarray:
    """Which triangles (T,) belong to the named parts."""
    return np.isin(head.part, [PARTS.index(name) for name in parts])[head.triangles].all(1)


def _mirror(points: np.ndarray) -> np.ndarray:
    """The other side, in reversed order."""
    return points[::-1] * (-1, 1, 1)


def _margin(head: Head, name: str, shares: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Points of the upper and the lower margin at shares of the width from the subject's right corner to the left."""
    skin = head.skin
    row = skin.rows["lids"]
    columns = np.arange(int(skin.grid[skin.loops[name], 0].min()), int(skin.grid[skin.loops[name], 0].max()) + 1)
    upper, lower = head.vertices[skin.upper[row, columns]], head.vertices[skin.lower[row, columns]]
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
