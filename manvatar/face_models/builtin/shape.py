"""The skin of the mean head as an implicit surface, and rays that find it.

Everything in :mod:`manvatar.face_models.builtin` that shapes the head is in millimetres in the head frame (x to the
subject's left, y up, z out of the face, origin midway between the four eye corners); metres appear when the
:class:`~manvatar.types.FaceModel` is made.

The skull, cheeks and jaw are a star-shaped surface about ``CENTRE`` whose radius is interpolated between the
anthropometric points below (cubic radial basis functions on the sphere). Nose, lips, lids and neck are simple solids
joined to it by a smooth minimum. The measures are adult means between the sexes as published in anthropometric
surveys (Farkas, "Anthropometry of the Head and Face", 1994; Gordon et al., ANSUR, 1989): head length 190, breadth
152, bizygomatic 136, bigonial 105, n-gn 119, n-sn 51, sn-gn 68, sn-sto 22, nose width 35, nasal protrusion 19,
intercanthal 32, fissure 29, mouth width 52, neck girth 365 mm.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.interpolate import RBFInterpolator
from scipy.ndimage import map_coordinates, spline_filter

CENTRE = np.array([0.0, -15.0, -50.0])

# Half of the head (x >= 0) without nose, lips and neck; the other half is its mirror image.
SKULL_POINTS = np.array([
    # midline, crown to chin: vertex, hairline, glabella, sellion, maxilla, lips' base, chin, menton
    (0, 117, -75), (0, 112, -38), (0, 96, -8), (0, 70, 12), (0, 46, 20), (0, 24, 22.5), (0, 5, 15.5),
    (0, -20, 18), (0, -46, 20.5), (0, -58, 21.5), (0, -68, 20), (0, -77, 18.5), (0, -86, 16.5), (0, -98, 20),
    (0, -107, 17.5), (0, -113.5, 9), (0, -116.5, -7), (0, -117, -30), (0, -112, -55),
    # midline, the back
    (0, 110, -115), (0, 86, -148), (0, 52, -166), (0, 18, -168), (0, -18, -160), (0, -52, -142), (0, -85, -120),
    # beside the midline
    (15, 60, 14.5), (14, 24, 19.5), (16, -1.5, 4.5), (14, -20, 13.5), (16, -45, 15.5), (14, -58, 18.5),
    (14, -69, 16), (14, -85, 13.5), (13, -98, 17.5), (15, -109, 10),
    # over and under the pupil: forehead, brow, orbit, cheek, mouth corner, chin
    (30, 75, 3.5), (31, 45, 14), (30, 26, 15), (31, 14, 6.5), (31, -13, 3.5), (30, -27, 8.5), (30, -44, 10),
    (29, -57, 10), (28, -70, 7), (28, -85, 5.5), (27, -100, 4.5), (26, -109, -3),
    # lateral forehead, brow end, canthus, cheekbone, cheek, jaw
    (47, 62, -5), (49, 42, -3), (48, 25, 2.5), (46, 2, -7), (47, -13, -2.5), (49, -26, -1.5), (48, -42, -4),
    (45, -57, -7), (43, -74, -11), (42, -90, -14), (37, -104, -16),
    # temple, orbital rim, zygoma, cheek, body of the jaw
    (60, 50, -25), (60, 30, -20), (58, 13, -16), (58, -4, -17), (60, -22, -19), (58, -42, -24), (55, -58, -29),
    (53, -76, -34), (48, -93, -38),
    # zygomatic arch, ramus, angle of the jaw
    (68, 40, -50), (68.5, 15, -47), (68, -8, -46), (68, -24, -48), (64.5, -45, -52), (60.5, -63, -56),
    (56.5, -80, -62), (52.5, -91, -64),
    # side of the skull, ear, mastoid
    (73.5, 50, -85), (75.5, 25, -90), (71, 0, -80), (69, -20, -78), (65, -45, -82), (59, -65, -84), (55, -82, -80),
    (61, 85, -62), (63, 86, -96), (40, 106, -70), (41, 105, -105),
    # back of the side
    (72, 40, -122), (69, 10, -126), (61, -20, -126), (54, -50, -116), (60, 62, -138), (45, 46, -157), (44, 10, -158),
    (40, -25, -147), (39, -55, -128),
])  # fmt: skip

EYE_CENTRE = np.array([31.0, 0.2, -6.8])  # of the subject's left eye
EYE_RADIUS = 12.0
LID_RADIUS = 13.6
MOUTH_HALF_WIDTH = 26.0

# Chains of tapered capsules: (x, y, z, radius) along each.
_BRIDGE = np.array([(0, 6, 7.5, 7.0), (0, -12, 16.5, 7.0), (0, -31, 28.5, 8.0)])
_NOSE_SIDE = np.array([(5, -8, 7, 6.0), (10.5, -35, 18.5, 7.0)])
_TIP = np.array([(0, -34.5, 30.3, 8.6), (3.2, -35.5, 29.6, 8.0)])
_ALA = np.array([(11.6, -37.5, 20.5, 5.6), (10.2, -38.8, 25.5, 5.0)])
_COLUMELLA = np.array([(0, -40, 30, 4.0), (0, -45, 19, 4.6)])
_UPPER_LIP = np.array([(0, -64.9, 21.6, 3.9), (6.5, -64.4, 20.8, 4.1), (16, -66.2, 16.0, 3.3), (26, -69.2, 8.8, 1.0)])
_LOWER_LIP = np.array([(0, -73.4, 19.6, 4.9), (9, -73.0, 18.6, 4.8), (18, -71.6, 14.4, 3.5), (26, -69.6, 8.8, 1.0)])
_NOSTRIL = np.array([(6.2, -45.5, 22.5, 2.6), (6.4, -41.5, 25.5, 2.4)])

_GRID = (181, 361)  # elevation, azimuth samples of the skull's radius: one degree


def surface(points: np.ndarray) -> np.ndarray:
    """Signed value (N,) at ``points`` (N, 3): below 0 inside the head; about the distance in mm near the surface."""
    p = points.copy()
    p[:, 0] = np.abs(p[:, 0])  # the mean head is symmetric
    value = _skull(p)
    nose = _chain(p, _BRIDGE)
    nose = smooth_minimum(nose, _chain(p, _NOSE_SIDE), 8.0)
    nose = smooth_minimum(nose, _chain(p, _TIP), 7.0)
    nose = smooth_minimum(nose, _chain(p, _ALA), 5.0)
    nose = smooth_minimum(nose, _chain(p, _COLUMELLA), 4.0)
    lips = smooth_minimum(_chain(p, _UPPER_LIP), _chain(p, _LOWER_LIP), 1.2)
    lid = np.linalg.norm(p - EYE_CENTRE, axis=1) - LID_RADIUS
    value = smooth_minimum(value, nose, 9.0)
    value = smooth_minimum(value, lid, 5.0)
    value = smooth_minimum(value, lips, 7.0)
    value = smooth_minimum(value, _neck(p), 20.0)
    philtrum = np.hypot(p[:, 0], (p[:, 2] - 29.5) * 0.55) - 3.3  # a shallow upright groove under the nose
    philtrum = np.maximum(philtrum, np.abs(p[:, 1] + 54.5) - 5)
    value = -smooth_minimum(-value, philtrum, 3.5)
    return -smooth_minimum(-value, _chain(p, _NOSTRIL), 3.0)


def trace(origins: np.ndarray, directions: np.ndarray, far: float = 235.0, steps: int = 70) -> np.ndarray:
    """Points (N, 3) where rays from inside leave the head for good; ``directions`` (N, 3) are of unit length.

    Marches inwards from ``far`` mm, then bisects. A ray that never leaves ends near its origin.
    """
    distance, outside = np.full(len(origins), far), np.full(len(origins), far)
    active = np.arange(len(origins))
    for _ in range(steps):
        value = surface(origins[active] + distance[active, None] * directions[active])
        reached = value <= 2e-2
        outside[active] = np.where(value > 0, distance[active], outside[active])
        # Steps shorter than the value, since it is no exact distance.
        distance[active] = np.where(reached, distance[active], np.maximum(distance[active] - 0.8 * value, 1.0))
        active = active[~reached & (distance[active] > 1.0)]
        if not len(active):
            break
    low, high = distance - 0.4, outside
    for _ in range(8):
        middle = 0.5 * (low + high)
        out = surface(origins + middle[:, None] * directions) > 0
        high, low = np.where(out, middle, high), np.where(out, low, middle)
    return origins + (0.5 * (low + high))[:, None] * directions


def smooth_minimum(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    """The minimum of both, rounded where they differ by less than ``width`` (the quadratic polynomial kind)."""
    blend = np.maximum(width - np.abs(a - b), 0) / width
    return np.minimum(a, b) - 0.25 * width * blend**2


def _chain(p: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """Distance to a chain of capsules whose radius varies linearly along each link."""
    best = np.full(len(p), np.inf)
    for start, end in zip(nodes, nodes[1:], strict=False):
        a, axis = np.array(start[:3]), np.array(end[:3]) - np.array(start[:3])
        along = np.clip((p - a) @ axis / (axis @ axis), 0, 1)
        radius = start[3] + along * (end[3] - start[3])
        best = np.minimum(best, np.linalg.norm(p - a - along[:, None] * axis, axis=1) - radius)
    return best


def _neck(p: np.ndarray) -> np.ndarray:
    """A leaning elliptic cylinder, wider towards the shoulders."""
    down = np.clip(-p[:, 1], 60, 260) - 100
    z = p[:, 2] - (-94 - 0.17 * down)
    wide, deep = 55 + 0.06 * np.maximum(down, 0), 56 + 0.04 * np.maximum(down, 0)
    taper = 0.012 * np.maximum(p[:, 1] + 80, 0) ** 2  # the upper end vanishes inside the head
    return (np.hypot(p[:, 0] / wide, z / deep) - 1) * np.minimum(wide, deep) + taper


def _skull(p: np.ndarray) -> np.ndarray:
    offset = p - CENTRE
    distance = np.linalg.norm(offset, axis=1)
    elevation = np.degrees(np.arcsin(np.clip(offset[:, 1] / np.maximum(distance, 1e-9), -1, 1)))
    azimuth = np.degrees(np.arctan2(offset[:, 0], offset[:, 2]))
    radius = map_coordinates(_skull_radius(), [elevation + 90, azimuth + 180], order=3, mode="nearest", prefilter=False)
    return (distance - radius) * 0.9


@lru_cache(maxsize=1)
def _skull_radius() -> np.ndarray:
    """Spline coefficients of the radius over (elevation, azimuth) in degrees, both from their lower end."""
    mirrored = SKULL_POINTS[SKULL_POINTS[:, 0] > 0] * (-1, 1, 1)
    offset = np.concatenate([SKULL_POINTS, mirrored]) - CENTRE
    radius = np.linalg.norm(offset, axis=1)
    interpolate = RBFInterpolator(offset / radius[:, None], radius, kernel="cubic", degree=1, smoothing=2e-3)
    angles = [np.radians(np.arange(count) - count // 2) for count in _GRID]
    elevation, azimuth = np.meshgrid(*angles, indexing="ij")
    level = np.cos(elevation)
    direction = np.stack([level * np.sin(azimuth), np.sin(elevation), level * np.cos(azimuth)], -1)
    return spline_filter(interpolate(direction.reshape(-1, 3)).reshape(_GRID), order=3, mode="nearest")
