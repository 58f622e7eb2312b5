"""All 68 iBUG landmarks of a face of which only some points are known.

A file may name a few points (Basel 2017 and 2019 name eye and mouth corners, nose, chin and more, but no jaw line).
The builtin head knows all 68. Its landmarks are brought onto the known points by a similarity, then by a smooth warp
(linear radial basis functions) that makes those agree, and what is not known itself goes from there to the closest
point of the surface. Lips that touch are told apart by their motion: upper and lower inner lip points only go to
triangles that move with the upper or the lower lip when the expressions open the mouth.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.interpolate import RBFInterpolator

from manvatar.face_models import builtin
from manvatar.face_models.embedding import embed, embedded_points, similarity
from manvatar.types import LandmarkEmbedding

UPPER_LIP, LOWER_LIP = (60, 61, 62, 63, 64), (65, 66, 67)
UPPER_MIDDLE, LOWER_MIDDLE = 51, 57  # outer edges of the lips: what opens, and far enough apart to be told apart
# Smoothing of the warp: points that are landmarks themselves, and points in the middle of a few of them.
EXACT, LOOSE = 1e-4, 2e-3

# A known point: the landmark it is, or those it lies in the middle of -> its position.
Known = Mapping[tuple[int, ...], np.ndarray]


def complete(
    known: Known, vertices_m: np.ndarray, triangles: np.ndarray, expression_m: np.ndarray
) -> LandmarkEmbedding:
    """The iBUG-68 landmarks on a mesh.

    Args:
        known: at least six points (3,) in metres that are not on one plane, in the frame of the mesh.
        vertices_m: (V, 3); triangles: (T, 3). Axes as in the head frame; the origin does not matter.
        expression_m: (E, V, 3) modes, to tell the lips apart.

    Raises:
        ValueError: too few points.
    """
    points = warped_template(known)
    return embed_apart(points, vertices_m, triangles, expression_m)


def warped_template(known: Known) -> np.ndarray:
    """The 68 landmarks (68, 3), in metres, before they go to the surface; those known are where they were given."""
    if len(known) < 6:
        raise ValueError(f"it names {len(known)} points that can be used, at least 6 are needed")
    template = embedded_points(builtin.load(), "ibug68")
    source = np.stack([template[list(which)].mean(0) for which in known])
    target = np.stack([np.asarray(point, np.float64) for point in known.values()])
    scale, rotation, shift = similarity(source, target)
    moved = scale * template @ rotation.T + shift
    controls = scale * source @ rotation.T + shift
    smoothing = np.array([EXACT if len(which) == 1 else LOOSE for which in known])
    points = moved + RBFInterpolator(controls, target - controls, kernel="linear", degree=1, smoothing=smoothing)(moved)
    for which, point in known.items():
        if len(which) == 1:
            points[which[0]] = point
    return points


def embed_apart(
    points: np.ndarray, vertices_m: np.ndarray, triangles: np.ndarray, expression_m: np.ndarray
) -> LandmarkEmbedding:
    """Landmarks (68, 3) to the closest surface points, upper and lower inner lip each on their own lip."""
    embedding = embed("ibug68", points, vertices_m, triangles)
    middles = triangles[embedding.triangle[[UPPER_MIDDLE, LOWER_MIDDLE]].numpy()]  # (2, 3)
    lift = expression_m[:, middles, 1].mean(2)  # (E, 2): how each mode lifts the outer edges of the lips
    opening = lift[:, 0] - lift[:, 1]
    motion = np.einsum("e,ev->v", opening, expression_m[..., 1])  # upwards, of every vertex, when the mouth opens
    upper, lower = motion[middles].mean(1)
    with_upper = motion > (upper + lower) / 2
    if upper - lower <= 0 or not len(opening):
        return embedding  # no expression opens this mouth
    for landmarks, side in ((UPPER_LIP, with_upper), (LOWER_LIP, ~with_upper)):
        which = list(landmarks)
        own = embed("ibug68", points[which], vertices_m, triangles, allowed=side[triangles].all(1))
        embedding.triangle[which], embedding.barycentric[which] = own.triangle, own.barycentric
    return embedding
