"""What the demo head is painted with: linear albedo, made from positions on the builtin head (mm)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from manvatar.face_models.builtin.head import Head
from manvatar.face_models.builtin.mesh import INNER_EYE, OUTER_EYE
from manvatar.face_models.builtin.organs import EYE_RADIUS, IRIS_RADIUS, PUPIL_RADIUS
from manvatar.synthesis.noise import Number, layered_noise, smooth_noise, spots

TEXELS = 6  # a grid cell of the skin, each way
HAIR_LINE = ((0, 70), (25, 66), (45, 53), (58, 40), (68, 30), (76, 14), (82, -8), (102, -8), (106, 12), (114, 14),
             (122, -20), (142, -62), (180, -70))  # fmt: skip

_BROW = np.array([(11.5, 20.5), (25, 25.2), (37, 26.6), (47, 23.8), (55.5, 17.5)])
_BROW_HALF_HEIGHT = np.array([3.6, 3.4, 2.9, 2.2, 1.0])
_UPPER_BORDER = np.array([(0, -61.4), (6.5, -60.3), (16, -63.6), (26.5, -69.4)])
_LOWER_BORDER = np.array([(0, -79.0), (8, -78.4), (16, -75.6), (26.5, -69.6)])


@dataclass(frozen=True)
class Texture:
    """An image and the texture coordinates of its corners; sampled at the nearest texel."""

    albedo: np.ndarray  # (H, W, 3) linear, float32
    lower: tuple[Number, Number]  # coordinates at the image's first corner
    upper: tuple[Number, Number]
    gloss: float = 0.1

    def __call__(self, coordinates: np.ndarray) -> np.ndarray:
        """Albedo (N, 3) at texture coordinates (N, 2); the border is repeated outside."""
        height, width = self.albedo.shape[:2]
        scale = np.array([width, height]) / (np.array(self.upper) - self.lower)
        texel = ((coordinates - np.array(self.lower)) * scale).astype(np.int32)
        column, row = np.clip(texel[:, 0], 0, width - 1), np.clip(texel[:, 1], 0, height - 1)
        return self.albedo.reshape(-1, 3)[row * width + column]


@dataclass(frozen=True)
class Colors:
    """One person's colours, linear."""

    skin: tuple[float, float, float] = (0.56, 0.335, 0.235)
    lips: tuple[float, float, float] = (0.42, 0.150, 0.125)
    hair: tuple[float, float, float] = (0.055, 0.030, 0.016)
    iris: tuple[float, float, float] = (0.10, 0.19, 0.24)


def random_colors(rng: np.random.Generator) -> Colors:
    """Plausible colours: skin along a line from fair to dark, hair and eyes from short lists."""
    tone = rng.uniform(0.0, 0.75)
    skin = (1 - tone) * np.array([0.62, 0.40, 0.30]) + tone * np.array([0.27, 0.13, 0.075])
    lips = skin * np.array([0.72, 0.45, 0.50]) + np.array([0.02, 0.0, 0.0])
    hair = np.array([(0.055, 0.030, 0.016), (0.012, 0.009, 0.008), (0.16, 0.085, 0.035)][rng.integers(3)])
    iris = np.array([(0.10, 0.19, 0.24), (0.10, 0.055, 0.025), (0.09, 0.13, 0.06)][rng.integers(3)])
    return Colors(*(tuple(float(c) for c in color) for color in (skin, lips, hair, iris)))


def hair_cover(points: np.ndarray) -> np.ndarray:
    """Signed height (N,) over the hair line in mm at points on the mean head: positive where hair grows."""
    azimuth = np.degrees(np.arctan2(np.abs(points[:, 0]), points[:, 2] + 50))
    return points[:, 1] - np.interp(azimuth, *np.array(HAIR_LINE).T)


def skin_texture(head: Head, colors: Colors, seed: int) -> Texture:
    """The whole skin grid, crown to foot of the neck; coordinates are grid column and row."""
    upper = head.vertices[head.skin.upper]  # (rows, columns, 3)
    rows, columns = upper.shape[:2]
    v, u = np.meshgrid(
        (np.arange((rows - 1) * TEXELS) + 0.5) / TEXELS,
        (np.arange((columns - 1) * TEXELS) + 0.5) / TEXELS,
        indexing="ij",
    )
    shape = v.shape
    u, v = u.ravel(), v.ravel()
    p = on_grid(upper, head.vertices[head.skin.lower], u, v)
    azimuth = np.interp(u, np.arange(columns), head.skin.azimuth)
    albedo = _skin(p, colors, seed)
    albedo = _painted(
        albedo, _lips(p, seed), np.array(colors.lips) * (1 + 0.10 * smooth_noise(p, (0.7, 3, 3), seed))[:, None]
    )
    # Lashes and lid margins: the rows next to the lid line between the eye corners.
    beside = v - head.skin.rows["lids"]
    within = np.clip((np.abs(azimuth) - INNER_EYE) / 3, 0, 1) * np.clip((OUTER_EYE + 1 - np.abs(azimuth)) / 2, 0, 1)
    ragged = 0.85 + 0.25 * smooth_noise(p, 0.8, seed + 7)
    lash = within * ragged * np.where(beside < 0, np.exp(-((beside / 1.3) ** 4)), 0.5 * np.exp(-((beside / 0.3) ** 2)))
    albedo = _painted(albedo, np.clip(lash, 0, 0.95), np.array([0.022, 0.014, 0.011]))
    brow = _brow(p) * np.clip(0.75 + 0.55 * smooth_noise(_combed(p), (0.9, 0.9, 7), seed + 5), 0, 1)
    albedo = _painted(albedo, 0.9 * brow, np.array(colors.hair) * 1.3)
    strands = hair_cover(p) + 4 * smooth_noise(p, (1.2, 9, 3), seed + 6)
    albedo = _painted(albedo, np.clip(strands / 5 + 0.3, 0, 1), hair_albedo(p, colors, seed))
    nostril = np.linalg.norm(
        (np.stack([np.abs(p[:, 0]), p[:, 1], p[:, 2]], 1) - (6.3, -43.6, 24.5)) / (3.6, 3.0, 4.6), axis=1
    )
    albedo = _painted(albedo, 0.92 * np.clip(1.6 - nostril, 0, 1), np.array([0.035, 0.014, 0.01]))
    return Texture(albedo.reshape(*shape, 3).astype(np.float32), (0, 0), (columns - 1, rows - 1), gloss=0.16)


def ear_texture(colors: Colors) -> Texture:
    """Coordinates: radius 0 to 1.05 and angle."""
    r = np.linspace(0, 1.05, 64)[None].repeat(4, 0)
    depth = 0.35 + 0.65 * np.clip(r / 0.45, 0, 1) ** 1.5
    albedo = np.array(colors.skin) * (1.05, 0.85, 0.82) * depth[..., None]
    return Texture(albedo.astype(np.float32), (0, 0), (1.05, 1), gloss=0.12)


def eye_texture(colors: Colors, seed: int, size: int = 256) -> Texture:
    """Coordinates: the angle from the optical axis / pi, as a vector in the plane of the iris."""
    reach = 0.5
    y, x = np.meshgrid(*(2 * (reach * ((np.arange(size) + 0.5) / size * 2 - 1),)), indexing="ij")
    polar, angle = np.hypot(x, y), np.arctan2(y, x)
    iris, pupil = (np.arcsin(radius / EYE_RADIUS) / np.pi for radius in (IRIS_RADIUS, PUPIL_RADIUS))
    around = np.stack([np.cos(angle) * 9, np.sin(angle) * 9, polar / iris * 2.0], -1).reshape(-1, 3)
    streak = smooth_noise(around, (0.5, 0.5, 2.5), seed).reshape(x.shape)
    vein = np.clip(layered_noise(np.stack([x, y, 0 * x], -1).reshape(-1, 3) * 60, 2.0, seed + 1), 0, 2).reshape(x.shape)
    white = (
        np.array([0.66, 0.60, 0.56])
        - vein[..., None] * np.array([0.0, 0.05, 0.05]) * np.clip(polar * 6 - 1, 0, 1)[..., None]
    )
    color = (
        np.array(colors.iris) * (1.0 + 0.45 * streak + 0.5 * np.exp(-(((polar / iris - 0.5) / 0.15) ** 2)))[..., None]
    )
    color = np.clip(color, 0.004, 1) * np.clip((1.08 - polar / iris) / 0.16, 0.25, 1)[..., None]  # a dark limbus
    inside = np.clip((iris - polar) / 0.008 + 0.5, 0, 1)[..., None]
    albedo = white * (1 - inside) + color * inside
    black = np.clip((pupil - polar) / 0.006 + 0.5, 0, 1)[..., None]
    albedo = albedo * (1 - black) + 0.006 * black
    # The shadow of the upper lid.
    albedo = albedo * (1 - 0.5 * np.clip((y - 0.03) / 0.13, 0, 1))[..., None]
    return Texture(albedo.astype(np.float32), (-reach, -reach), (reach, reach), gloss=0.9)


def teeth_texture(seed: int) -> Texture:
    """Coordinates: tooth along the arch (0 to 14) and height (0 gum, 1 edge)."""
    number, height = np.meshgrid((np.arange(14 * 24) + 0.5) / 24, np.linspace(-0.6, 2.0, 80))
    local = np.abs(2 * (number % 1) - 1)
    p = np.stack([number * 8, height * 8, 0 * height], -1).reshape(-1, 3)
    tone = 1 + 0.05 * layered_noise(p, 6.0, seed).reshape(number.shape)
    enamel = np.array([0.70, 0.66, 0.56]) * tone[..., None]
    enamel = enamel * (1 - 0.65 * np.clip((local - 0.86) / 0.14, 0, 1) ** 1.5)[..., None]
    gum_line = 0.04 + 0.10 * local**2
    gum = np.clip((gum_line - height) / 0.04 + 0.5, 0, 1)[..., None]
    albedo = enamel * (1 - gum) + np.array([0.45, 0.17, 0.16]) * gum
    back = np.clip((height - 1.0) / 0.15, 0, 1)[..., None]  # the inside of the arch is in the dark
    return Texture((albedo * (1 - 0.75 * back)).astype(np.float32), (0, -0.6), (14, 2.0), gloss=0.45)


def plain_texture(color: tuple[float, float, float], gloss: float) -> Texture:
    """One colour everywhere."""
    return Texture(np.array(color, np.float32).reshape(1, 1, 3), (0, 0), (1, 1), gloss)


def hair_albedo(p: np.ndarray, colors: Colors, seed: int) -> np.ndarray:
    """Strands (N, 3) running from the crown outwards at points on the mean head."""
    azimuth = np.arctan2(p[:, 0], p[:, 2] + 75)
    along = np.linalg.norm(p - (0, 117, -75), axis=1)
    place = np.stack([np.cos(azimuth) * 90, np.sin(azimuth) * 90, along], 1)
    wave = place + np.stack([2.0 * smooth_noise(p, 14, seed + k) for k in range(3)], 1)
    strand = 0.6 * smooth_noise(wave, (1.1, 1.1, 28), seed + 8) + 0.4 * smooth_noise(wave, (2.6, 2.6, 40), seed + 9)
    return np.array(colors.hair) * np.clip(1 + 0.42 * strand, 0.25, 2.6)[:, None]


def on_grid(upper: np.ndarray, lower: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Positions at grid coordinates; a cell hangs between the lower side of its first row and the upper of its next."""
    i, j = np.clip(u.astype(int), 0, upper.shape[1] - 2), np.clip(v.astype(int), 0, upper.shape[0] - 2)
    s, t = (u - i)[:, None], (v - j)[:, None]
    return (1 - t) * ((1 - s) * lower[j, i] + s * lower[j, i + 1]) + t * (
        (1 - s) * upper[j + 1, i] + s * upper[j + 1, i + 1]
    )


def _painted(albedo: np.ndarray, weight: np.ndarray, color: np.ndarray) -> np.ndarray:
    return albedo * (1 - weight[:, None]) + color * weight[:, None]


def _skin(p: np.ndarray, colors: Colors, seed: int) -> np.ndarray:
    """Skin with blood, shadows under the eyes, pores, blotches, freckles and moles."""
    side = np.abs(p[:, 0])
    front = np.clip((p[:, 2] + 50) / 25, 0, 1)

    def around(x: Number, y: Number, wide: Number, high: Number) -> np.ndarray:
        return front * np.exp(-0.5 * (((side - x) / wide) ** 2 + ((p[:, 1] - y) / high) ** 2))

    blood = 0.5 * around(42, -32, 15, 13) + 0.45 * around(5, -36, 11, 8) + 0.25 * around(0, -100, 16, 9)
    blood += 0.12 * layered_noise(p, 14, seed)
    albedo = np.array(colors.skin) * np.exp(blood[:, None] * np.array([0.06, -0.28, -0.24]))
    tired = 0.22 * around(28, -11, 13, 5) + 0.08 * around(20, 6, 9, 6)
    beard = 0.10 * np.clip((-50 - p[:, 1]) / 14, 0, 1) * np.clip((135 + p[:, 1]) / 16, 0, 1) * front
    albedo *= np.exp(-(tired + beard)[:, None] * np.array([0.9, 0.9, 0.6]))
    pores = 0.05 * smooth_noise(p, 0.9, seed + 1) + 0.035 * smooth_noise(p, 2.2, seed + 2)
    albedo *= (1 + pores + 0.05 * layered_noise(p, 9, seed + 3))[:, None]
    freckled = around(25, -25, 26, 17) + 0.25
    freckle = spots(p, 4.5, (0.5, 1.0), 0.30, seed) * np.clip(freckled, 0, 1)
    mole = spots(p, 34.0, (0.9, 1.5), 0.20, seed + 1)
    albedo *= np.exp(-freckle[:, None] * np.array([0.30, 0.55, 0.75]))
    return albedo * np.exp(-mole[:, None] * np.array([1.0, 1.5, 1.8]))


def _lips(p: np.ndarray, seed: int) -> np.ndarray:
    """1 on the vermilion."""
    side = np.abs(p[:, 0])
    ragged = p[:, 1] + 0.25 * smooth_noise(p, 1.5, seed + 4)
    top, bottom = (np.interp(side, *border.T) for border in (_UPPER_BORDER, _LOWER_BORDER))
    inside = np.clip((np.minimum(top - ragged, ragged - bottom)) / 1.0 + 0.5, 0, 1)
    return 0.85 * inside * np.clip((26.5 - side) / 1.5, 0, 1) * (p[:, 2] > -5)


def _brow(p: np.ndarray) -> np.ndarray:
    side = np.abs(p[:, 0])
    middle, half = np.interp(side, *_BROW.T), np.interp(side, _BROW[:, 0], _BROW_HALF_HEIGHT)
    across = np.clip(1.6 - 1.3 * np.abs(p[:, 1] - middle) / half, 0, 1)
    return across * np.clip((side - 9.5) / 4, 0, 1) * np.clip((57.5 - side) / 6, 0, 1) * (p[:, 2] > -30)


def _combed(p: np.ndarray) -> np.ndarray:
    """Coordinates with the third along the hairs of the brows: outwards, and upwards near the nose."""
    side = np.abs(p[:, 0])
    lean = np.interp(side, [10, 30, 56], [1.0, 0.35, -0.45])
    along = np.stack([np.cos(lean), np.sin(lean)], 1)
    q = np.stack([side, p[:, 1]], 1)
    return np.stack([-q[:, 0] * along[:, 1] + q[:, 1] * along[:, 0], p[:, 0] * 0, (q * along).sum(1)], 1)
