"""Eyeballs, teeth, tongue and ears of the mean head: each a mesh of its own, in millimetres in the head frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from manvatar.face_models.builtin.shape import EYE_CENTRE, EYE_RADIUS

# Crown widths (mm) of half an arch from the midline backwards: incisors, canine, premolars, first and second molar.
UPPER_CROWNS = (8.5, 6.5, 7.6, 7.0, 6.8, 10.2, 9.6)
LOWER_CROWNS = (5.3, 5.8, 6.8, 7.0, 7.1, 11.2, 10.4)

IRIS_RADIUS = 5.9
PUPIL_RADIUS = 1.9


@dataclass(frozen=True)
class Organ:
    """A mesh with texture coordinates that mean something to whoever paints it (see each function)."""

    name: str
    vertices: np.ndarray  # (V, 3) mm
    triangles: np.ndarray  # (T, 3) counter-clockwise from outside
    coordinates: np.ndarray  # (V, 2)


def eyeball(side: str, rings: int = 16, sectors: int = 28) -> Organ:
    """A ball with a cornea, looking along +z. Coordinates: angle from the optical axis / pi, position angle / 2 pi."""
    # Rings are closer together around the iris.
    polar = np.pi * np.linspace(0, 1, rings + 1)[1:] ** 1.45
    polar[-1] = np.pi * 0.98
    angle = 2 * np.pi * np.arange(sectors) / sectors
    p, a = (m.ravel() for m in np.meshgrid(polar, angle, indexing="ij"))
    direction = np.stack([np.sin(p) * np.cos(a), np.sin(p) * np.sin(a), np.cos(p)], 1)
    apex = np.array([[0.0, 0, 1]])
    direction = np.concatenate([apex, direction])
    polar_all = np.concatenate([[0.0], p])
    limbus = np.arcsin(IRIS_RADIUS / EYE_RADIUS)
    bulge = 0.75 * np.clip(1 - (polar_all / (limbus * 1.15)) ** 2, 0, 1)
    vertices = _centre(side) + direction * (EYE_RADIUS + bulge)[:, None]
    ring = 1 + np.arange(rings * sectors).reshape(rings, sectors)
    fan = np.stack([np.zeros(sectors, int), ring[0], np.roll(ring[0], -1)], 1)
    triangles = np.concatenate([fan, _strip(ring)])
    coordinates = np.stack([polar_all / np.pi, np.concatenate([[0.0], a]) / (2 * np.pi)], 1)
    return Organ(f"{side}_eyeball", vertices, triangles, coordinates)


def teeth(jaw: str) -> Organ:
    """An arch of fourteen crowns with their gum.

    Coordinates: teeth along the arch from the subject's right; height, 0 at the gum, 1 at the edge, more on the inside.
    """
    upper = jaw == "upper"
    crowns = np.array(UPPER_CROWNS if upper else LOWER_CROWNS)
    samples = 6  # of each crown
    half = np.concatenate([[0], crowns.cumsum()])
    edges = np.concatenate([-half[::-1], half[1:]])
    along = np.concatenate([np.linspace(a, b, samples, endpoint=False) for a, b in zip(edges, edges[1:], strict=False)])
    along = np.append(along, edges[-1])
    number = np.arange(len(along)) / samples
    local = 2 * (number % 1) - 1  # -1 .. 1 across one crown
    crown_width = np.append(np.repeat(np.concatenate([crowns[::-1], crowns]), samples), crowns[-1])
    point, outward = _arch(along, depth=14.0 if upper else 11.4, spread=26.0 if upper else 24.5)
    molar = np.clip((np.abs(along) - 22) / 10, 0, 1)
    root, edge = (-58.5, -69.6 + 1.2 * molar) if upper else (-82.5, -71.0 - 0.6 * molar)
    incisor_step = np.where(np.abs(number - 7) < 1, 0.0, 0.5) - np.where(np.abs(np.abs(number - 7) - 2.5) < 0.5, 0.5, 0)
    edge = edge + (incisor_step if upper else -0.4 * incisor_step)
    bulge = 0.9 * (1 - np.abs(local) ** 4) + 0.12 * crown_width * (1 - local**2) * 0.5
    notch = 0.9 * np.abs(local) ** 6  # crowns part at their edges
    rows = []
    # (height 0 gum .. 1 edge, outward offset) over the front, then thickness inwards over the back
    for height, out in ((-0.55, -1.2), (-0.1, 0.6), (0.04, 0.25), (0.3, 1.0), (0.6, 0.95), (0.85, 0.6), (0.97, 0.2)):
        y = root + height * (edge - root)
        y = y + (notch if upper else -notch) * max(height - 0.6, 0) / 0.4
        swell = bulge * (np.sin(np.pi * np.clip(height, 0, 1) ** 0.8) * 0.5 + (0.45 if height > 0 else 0))
        rows.append(_lift(point + outward * (out + swell - 1.5)[:, None], y))
    thick = 1.6 + 5.5 * molar
    for height, inward in ((0.98, 0.6), (0.8, 1.0), (-0.3, 2.2)):
        y = root + height * (edge - root)
        rows.append(_lift(point - outward * (thick * inward + 1.0)[:, None], y))
    heights = np.array([-0.55, -0.1, 0.04, 0.3, 0.6, 0.85, 0.97, 1.1, 1.4, 2.0])
    grid = np.arange(len(rows) * len(along)).reshape(len(rows), len(along))
    triangles = _strip(grid, closed=False)
    coordinates = np.stack([np.tile(number, len(rows)), np.repeat(heights, len(along))], 1)
    if not upper:
        triangles = triangles[:, ::-1]
    return Organ(f"{jaw}_teeth", np.concatenate(rows), triangles, coordinates)


def tongue(rings: int = 9, sectors: int = 20) -> Organ:
    """The tongue, a flat ellipsoid resting between the lower teeth. Coordinates: polar angle / pi, angle / 2 pi."""
    p, a = np.meshgrid(np.pi * np.linspace(0.05, 0.95, rings), 2 * np.pi * np.arange(sectors) / sectors, indexing="ij")
    p, a = p.ravel(), a.ravel()
    groove = 1.2 * np.exp(-((np.sin(p) * np.cos(a) * 18 / 4) ** 2))
    x, y, z = 18 * np.sin(p) * np.cos(a), 6.5 * np.sin(p) * np.sin(a), 26 * np.cos(p)
    y = np.where(y > 0, y - groove, y)
    vertices = np.stack([x, y, z], 1) + np.array([0, -79.0, -17.0])
    grid = np.arange(rings * sectors).reshape(rings, sectors)
    caps = [np.stack([np.full(sectors - 2, r[0]), r[1:-1], r[2:]], 1) for r in (grid[0], grid[-1][::-1])]
    return Organ("tongue", vertices, np.concatenate([_strip(grid), *caps]), np.stack([p / np.pi, a / (2 * np.pi)], 1))


def ear(side: str, rings: int = 14, sectors: int = 36) -> Organ:
    """An auricle: a shell in polar coordinates with helix, antihelix, concha, tragus and lobe, and a back.

    Coordinates: radius (over 1 is the back) and angle / 2 pi, 0 pointing forward, counted over the top.
    """
    radius = np.concatenate([np.linspace(0.0, 1, rings)[1:], [1.05, 1.02, 0.9, 0.6]])
    angle = 2 * np.pi * np.arange(sectors) / sectors
    r, a = (m.ravel() for m in np.meshgrid(radius, angle, indexing="ij"))
    r, a = np.concatenate([[0.0], r]), np.concatenate([[0.0], a])
    back = np.concatenate([[False], np.repeat(np.arange(len(radius)) >= rings - 1, sectors)])
    outline_back, outline_up = _ear_outline(a)
    u, v = -r * outline_back, r * outline_up  # u: backwards, v: upwards (mm)
    height = np.where(back, -4.5 - 7 * (1.05 - r), _ear_relief(r, a))
    # The plane: leaning back by 12 degrees and swung out from the head by 24.
    lean, swing = np.radians(12), np.radians(24)
    up = np.array([0, np.cos(lean), -np.sin(lean)])
    backward = np.array([np.sin(swing), -np.sin(lean) * np.cos(swing), -np.cos(lean) * np.cos(swing)])
    normal = np.cross(up, backward)
    normal *= np.sign(normal[0]) / np.linalg.norm(normal)
    anchor = np.array([72.5, -11.0, -84.0])  # in the concha
    vertices = anchor + u[:, None] * backward + v[:, None] * up + height[:, None] * normal
    grid = 1 + np.arange(len(radius) * sectors).reshape(len(radius), sectors)
    fan = np.stack([np.zeros(sectors, int), grid[0], np.roll(grid[0], -1)], 1)
    triangles = np.concatenate([fan, _strip(grid)])
    if side == "right":
        vertices = vertices * (-1, 1, 1)
        triangles = triangles[:, ::-1]
    return Organ(f"{side}_ear", vertices, triangles[:, ::-1], np.stack([r, a / (2 * np.pi)], 1))


def _ear_outline(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Half-axes of the rim by angle: forward is positive in the first. About 62 by 35 mm, wider above."""
    c, s = np.cos(a), np.sin(a)
    up = np.where(s > 0, 31.0, 31.0) * s
    width = np.where(c > 0, 12.0, 22.0) * (1 - 0.28 * np.clip(-s, 0, 1) ** 1.5 + 0.05 * np.clip(s, 0, 1))
    return width * c, up


def _ear_relief(r: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Height (mm) of the front over the ear's plane."""
    s, c = np.sin(a), np.cos(a)
    lobe = np.clip(-s - 0.55, 0, 1) / 0.45  # the bottom has no helix
    free = np.clip(1 - 1.6 * np.clip(c, 0, 1), 0, 1) * (1 - lobe) + np.clip(s, 0, 1) * 0.4
    helix = 3.2 * np.exp(-(((r - 0.93) / 0.075) ** 2)) * np.clip(free, 0, 1)
    scapha = -2.0 * np.exp(-(((r - 0.78) / 0.07) ** 2)) * np.clip(free, 0, 1)
    antihelix = 3.4 * np.exp(-(((r - 0.58) / 0.11) ** 2)) * np.clip(-c + 0.35, 0, 1) * (1 - 0.5 * lobe)
    concha = -7.5 * np.exp(-((r / 0.36) ** 2))
    tragus = 4.0 * np.exp(-(((r - 0.45) / 0.2) ** 2)) * np.clip(c - 0.55, 0, 1) * 2 * np.exp(-((s / 0.5) ** 2))
    return helix + scapha + antihelix + concha + tragus - 1.5 * lobe * r


def _centre(side: str) -> np.ndarray:
    return EYE_CENTRE * ((1, 1, 1) if side == "left" else (-1, 1, 1))


def _arch(along: np.ndarray, depth: float, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) of a dental arch by arc length from the midline, at y = 0, and its outward normals."""
    x = np.linspace(-1.02 * spread, 1.02 * spread, 801)
    z = depth - 0.052 * x**2 - 3e-5 * x**4
    length = np.concatenate([[0], np.hypot(np.diff(x), np.diff(z)).cumsum()])
    length -= length[400]
    tangent = np.stack([np.gradient(x), np.gradient(z)], 1)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    px, pz = np.interp(along, length, x), np.interp(along, length, z)
    tx, tz = np.interp(along, length, tangent[:, 0]), np.interp(along, length, tangent[:, 1])
    zero = np.zeros_like(px)
    return np.stack([px, zero, pz], 1), np.stack([-tz, zero, tx], 1)


def _lift(points: np.ndarray, y: np.ndarray | float) -> np.ndarray:
    result = points.copy()
    result[:, 1] = y
    return result


def _strip(grid: np.ndarray, closed: bool = True) -> np.ndarray:
    """Two triangles for every cell of a grid of vertex indices whose columns (rings) close."""
    if closed:
        following = np.roll(grid, -1, 1)
        a, b, c, d = grid[:-1], following[:-1], grid[1:], following[1:]
    else:
        a, b, c, d = grid[:-1, :-1], grid[:-1, 1:], grid[1:, :-1], grid[1:, 1:]
    return np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([b, c, d], -1).reshape(-1, 3)])
