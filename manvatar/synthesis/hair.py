"""Hair of the demo head: a shell over the scalp, and lashes on the upper lids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from manvatar.face_models.builtin import build_head
from manvatar.synthesis import textures
from manvatar.synthesis.noise import smooth_noise
from manvatar.synthesis.textures import Colors, Texture

HAIR_THICKNESS_MM = 13.0
LASHES_PER_COLUMN = 3
LASH_OPEN_MM, LASH_CLOSED_MM = (2.0, 5.5), (-4.0, 3.5)  # of a lash's tip from its root: up, forwards


def hair_shell(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The skin vertices hair stands on, its height there (mm), and triangles in the numbering of the former."""
    head = build_head()
    grid = head.skin.parts["face"]
    p = head.vertices[grid]
    cover = hair_height(p, seed)
    triangles = head.triangles[(head.triangles < len(grid)).all(1)]
    triangles = triangles[(cover[triangles] > 0).any(1) & (p[triangles][..., 1] > -95).all(1)]
    used, renumbered = np.unique(triangles, return_inverse=True)
    return used, cover[used] - 1.5, renumbered.reshape(-1, 3)


def hair_height(points: np.ndarray, seed: int) -> np.ndarray:
    """Thickness (N,) of the hair in mm at points on the mean head; 0 outside."""
    over = textures.hair_cover(points)
    ramp = np.clip(over / 16, 0, 1)
    waves = 1 + 0.22 * smooth_noise(points, 11, seed + 30) + 0.15 * smooth_noise(points, 5, seed + 31)
    thick = HAIR_THICKNESS_MM * np.interp(points[:, 1], [-60, 0, 60], [0.35, 0.55, 1.0])
    return thick * np.sqrt(ramp) * waves


def hair_texture(colors: Colors, seed: int) -> Texture:
    head = build_head()
    grid = head.vertices[head.skin.upper]
    rows, columns = grid.shape[:2]
    scale = 6
    v, u = np.meshgrid(
        (np.arange((rows - 1) * scale) + 0.5) / scale, (np.arange((columns - 1) * scale) + 0.5) / scale, indexing="ij"
    )
    p = textures.on_grid(grid, grid, u.ravel(), v.ravel())
    albedo = textures.hair_albedo(p, colors, seed).reshape(*v.shape, 3)
    return Texture(albedo.astype(np.float32), (0, 0), (columns - 1, rows - 1), gloss=0.25)


@dataclass(frozen=True)
class Lashes:
    """Thin triangles whose corners hang on vertices of the head."""

    root: np.ndarray  # (L, 2) vertices of the head between which each corner stands
    share: np.ndarray  # (L,) of the second
    offset_m: np.ndarray  # (L, 3) from there, eyes open
    closing_m: np.ndarray  # (L, 3) change of the offset from open to closed
    left: np.ndarray  # (L,) bool: on the left eye
    triangles: np.ndarray  # (T, 3) in the numbering of the corners


def lashes(seed: int) -> Lashes:
    """Lashes along both upper lids, longer and more fanned out towards the temples."""
    head, rng = build_head(), np.random.default_rng(seed)
    row = head.skin.rows["lids"]
    root, share, offset, closing, left = [], [], [], [], []
    for side, outwards in (("left", 1), ("right", -1)):
        loop = head.skin.loops[f"{side}_eye"]
        first, last = int(head.skin.grid[loop, 0].min()), int(head.skin.grid[loop, 0].max())
        places = np.linspace(first + 0.6, last - 0.05, (last - first) * LASHES_PER_COLUMN)
        for place in places:
            along = (place - first) / (last - first)
            temple = along if outwards > 0 else 1 - along
            length = (0.6 + 0.5 * temple) * rng.uniform(0.8, 1.15)
            fan = outwards * 3.5 * (temple - 0.4) + rng.normal(0, 0.4)
            up, forwards = LASH_OPEN_MM
            down, flat = LASH_CLOSED_MM
            for shift, tip in ((-0.22, False), (0.22, False), (0.0, True)):
                column = min(int(place + shift), last - 1)
                root.append((head.skin.upper[row, column], head.skin.upper[row, column + 1]))
                share.append(place + shift - column)
                offset.append((fan, up * length, forwards * length) if tip else (0.0, 0.0, 0.1))
                closing.append((0.0, (down - up) * length, (flat - forwards) * length) if tip else (0.0, -0.2, 0.2))
                left.append(side == "left")
    triangles = np.arange(len(root)).reshape(-1, 3)
    return Lashes(
        np.array(root), np.array(share), np.array(offset) * 1e-3, np.array(closing) * 1e-3, np.array(left), triangles
    )
