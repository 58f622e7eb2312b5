"""All meshes of the mean head put together, with the tables that expressions and textures need."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from manvatar.face_models.builtin import organs
from manvatar.face_models.builtin.mesh import Skin, build_skin

PARTS = (
    "face",
    "skull",  # scalp and what is behind the ears
    "neck",
    "left_lids",  # inner rims of the lids
    "right_lids",
    "mouth_bag",
    "left_eyeball",
    "right_eyeball",
    "upper_teeth",
    "lower_teeth",
    "tongue",
    "left_ear",
    "right_ear",
)


@dataclass(frozen=True)
class Head:
    """The mean head. Millimetres, head frame."""

    vertices: np.ndarray  # (V, 3)
    triangles: np.ndarray  # (T, 3)
    part: np.ndarray  # (V,) index into PARTS
    coordinates: np.ndarray  # (V, 2) texture coordinates; grid column and row on the skin, else see organs
    skin: Skin  # its vertices come first

    def of(self, *names: str) -> np.ndarray:
        """Indices of the vertices of the named parts."""
        return np.flatnonzero(np.isin(self.part, [PARTS.index(name) for name in names]))


@lru_cache(maxsize=1)
def build_head() -> Head:
    """Made once per process, in about half a second; the same on every machine but for rounding."""
    skin = build_skin()
    part = np.zeros(len(skin.vertices), np.int64)
    for name, vertices in skin.parts.items():
        part[vertices] = PARTS.index(name)
    grid = skin.parts["face"]
    azimuth = np.interp(skin.grid[grid, 0], np.arange(len(skin.azimuth)), skin.azimuth)
    row = skin.grid[grid, 1]
    behind = (np.abs(azimuth) > 95) | (row < skin.rows["hairline"])
    part[grid[behind]] = PARTS.index("skull")
    part[grid[(row > skin.rows["throat"]) | ((row > skin.rows["jaw"]) & (np.abs(azimuth) > 95))]] = PARTS.index("neck")
    meshes = [organs.eyeball("left"), organs.eyeball("right"), organs.teeth("upper"), organs.teeth("lower")]
    meshes += [organs.tongue(), organs.ear("left"), organs.ear("right")]
    vertices, triangles, parts, coordinates = [skin.vertices], [skin.triangles], [part], [skin.grid]
    size = len(skin.vertices)
    for mesh in meshes:
        vertices.append(mesh.vertices)
        triangles.append(mesh.triangles + size)
        parts.append(np.full(len(mesh.vertices), PARTS.index(mesh.name)))
        coordinates.append(mesh.coordinates)
        size += len(mesh.vertices)
    return Head(*(np.concatenate(pieces) for pieces in (vertices, triangles, parts, coordinates)), skin=skin)
