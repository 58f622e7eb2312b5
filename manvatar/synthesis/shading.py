"""Pictures of the demo scene: rasterised at twice the size, lit by a sky and three lamps, averaged, encoded as sRGB."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from manvatar.synthesis.noise import layered_noise
from manvatar.synthesis.rasterize import rasterize
from manvatar.synthesis.scene import Paint, vertex_normals

SUPERSAMPLES = 2  # each way
# Lamps: direction towards the lamp in the camera frame (x right, y down, z away), linear colour.
LAMPS = (
    ((-0.55, -0.55, -0.75), (1.55, 1.45, 1.30)),
    ((0.80, -0.20, -0.60), (0.60, 0.66, 0.78)),
    ((0.25, -0.70, 0.65), (0.45, 0.45, 0.50)),
)
SKY, GROUND = (0.36, 0.38, 0.42), (0.20, 0.17, 0.15)
WRAP = 0.25  # light creeps this far round the edge of its hemisphere: soft lamps, and skin


@dataclass(frozen=True)
class Backdrop:
    """What does not move: colours and inverse depths at the supersampled size."""

    image: np.ndarray  # (2 height, 2 width, 3) linear float32
    inverse_depth: np.ndarray  # (2 height, 2 width) float32, 1 / m; 0 = infinitely far

    def with_mesh(self, vertices: np.ndarray, paint: Paint, focal_px: float, center_px: np.ndarray) -> Backdrop:
        """The same with a mesh in it; vertices (V, 3) in metres in the camera frame."""
        pixel, color, inverse = _draw(vertices, paint, focal_px, center_px, self)
        image, depth = self.image.copy(), self.inverse_depth.copy()
        image.reshape(-1, 3)[pixel] = color
        depth.reshape(-1)[pixel] = inverse
        return Backdrop(image, depth)


def shade_frame(
    vertices: np.ndarray, paint: Paint, focal_px: float, center_px: np.ndarray, backdrop: Backdrop
) -> np.ndarray:
    """One picture, (height, width, 3) uint8 sRGB, of a mesh before (and behind parts of) the backdrop.

    Args:
        vertices: (V, 3) in metres in the camera frame.
        focal_px, center_px: of the picture.
    """
    image = backdrop.with_mesh(vertices, paint, focal_px, center_px).image
    height, width = image.shape[:2]
    small = image.reshape(height // SUPERSAMPLES, SUPERSAMPLES, width // SUPERSAMPLES, SUPERSAMPLES, 3)
    return encode_srgb(
        sum(small[:, i, :, j] for i in range(SUPERSAMPLES) for j in range(SUPERSAMPLES)) / SUPERSAMPLES**2
    )


def _draw(
    vertices: np.ndarray, paint: Paint, focal_px: float, center_px: np.ndarray, backdrop: Backdrop
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels of the backdrop that the mesh covers, their linear colours (N, 3) and inverse depths."""
    height, width = backdrop.inverse_depth.shape
    vertices = vertices.astype(np.float32)
    points = (vertices[:, :2] / vertices[:, 2:] * np.float32(focal_px) + center_px.astype(np.float32)) * SUPERSAMPLES
    seen = rasterize(points, vertices[:, 2], paint.triangles, (width, height))
    inverse = 1 / seen.depth_m
    nearer = inverse > backdrop.inverse_depth.reshape(-1)[seen.pixel]
    pixel, triangle, barycentric = seen.pixel[nearer], seen.triangle[nearer], seen.barycentric[nearer]
    return pixel, _radiance(vertices, paint, triangle, barycentric), inverse[nearer]


def _radiance(vertices: np.ndarray, paint: Paint, triangle: np.ndarray, barycentric: np.ndarray) -> np.ndarray:
    """Linear colour (N, 3) of fragments: light interpolated between vertices, albedo from the textures."""
    normal = vertex_normals(vertices, paint).astype(np.float32)
    view = -vertices / np.linalg.norm(vertices, axis=1, keepdims=True)
    light, shine = lighting(normal, view, paint.gloss[:, None], paint.shade[:, None])
    attributes = np.concatenate([light, shine, paint.coordinates.astype(np.float32)], 1)
    corners = paint.triangles[triangle]
    values = attributes[corners[:, 0]] * barycentric[:, :1]
    values += attributes[corners[:, 1]] * barycentric[:, 1:2]
    values += attributes[corners[:, 2]] * barycentric[:, 2:]
    result = np.empty((len(triangle), 3), np.float32)
    material = paint.material[triangle]
    for index, texture in enumerate(paint.textures):
        mine = np.flatnonzero(material == index)
        result[mine] = texture(values[mine, 6:])
    return result * values[:, :3] + values[:, 3:6]


def lighting(
    normal: np.ndarray, view: np.ndarray, gloss: np.ndarray, shade: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Light to be multiplied by the albedo, and highlights to be added, each (V, 3).

    Wrapped Lambert for the lamps, a hemisphere of sky over ground, and Blinn-Phong highlights.

    Args: unit normals and directions to the viewer (V, 3); gloss and shade (V, 1).
    """
    up = 0.5 - 0.5 * normal[:, 1:2]
    light = (up * np.array(SKY, np.float32) + (1 - up) * np.array(GROUND, np.float32)) * shade
    shine = np.zeros_like(light)
    for direction, color in LAMPS:
        towards = np.array(direction, np.float32) / np.float32(np.linalg.norm(direction))
        strength = np.array(color, np.float32)
        light += np.maximum((normal @ towards[:, None] + WRAP) / (1 + WRAP), 0) * shade * strength
        half = view + towards
        half /= np.linalg.norm(half, axis=1, keepdims=True)
        cosine = np.maximum((normal * half).sum(1, keepdims=True), 0)
        # Dull things have a broad sheen, wet ones a small bright spot.
        shine += ((1 - gloss) * cosine**16 + 3 * gloss * cosine ** (40 + 160 * gloss**2)) * (strength * 0.4)
    return light, shine * gloss * shade


def make_background(size_px: tuple[int, int], seed: int) -> Backdrop:
    """An out-of-focus room for pictures of ``size_px``: wall, window, shelves with things, lamps."""
    width, height = (SUPERSAMPLES * n for n in size_px)
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / width)
    rng = np.random.default_rng(seed)
    wall = np.array([0.30, 0.32, 0.31]) * (1.05 - 0.5 * x - 0.25 * y)[..., None]

    def soft_box(left: float, top: float, right: float, bottom: float, blur: float) -> np.ndarray:
        inside = np.minimum(np.minimum(x - left, right - x), np.minimum(y - top, bottom - y))
        return np.clip(inside / blur + 0.5, 0, 1)[..., None]

    image = wall
    window = soft_box(-0.1, -0.1, 0.24, 0.52, 0.05)
    image = image * (1 - window) + np.array([0.75, 0.85, 0.95]) * (0.9 - 0.4 * y)[..., None] * window
    for shelf in (0.22, 0.50, 0.78):
        board = soft_box(0.66, shelf, 1.1, shelf + 0.025, 0.02)
        image = image * (1 - board) + np.array([0.16, 0.09, 0.05]) * board
        left = 0.68
        while left < 1.0:
            wide, high = rng.uniform(0.02, 0.06), rng.uniform(0.10, 0.2)
            book = soft_box(left, shelf - high, left + wide, shelf, 0.018)
            image = image * (1 - book) + rng.uniform(0.03, 0.35, 3) * book
            left += wide + rng.choice([0.004, 0.004, 0.05])
    for _ in range(5):
        cx, cy, r = rng.choice([0.02, 0.72]) + rng.uniform(0, 0.2), rng.uniform(0.05, 0.6), rng.uniform(0.012, 0.035)
        disc = np.clip((r - np.hypot(x - cx, y - cy)) / 0.01 + 0.5, 0, 1)[..., None]
        image = image + 0.25 * disc * np.array([0.9, 0.7, 0.4])
    coarse = np.stack([x[::8, ::8] * 40, y[::8, ::8] * 40, 0 * x[::8, ::8]], -1)
    cloud = layered_noise(coarse.reshape(-1, 3), 9, seed).reshape(coarse.shape[:2])
    cloud = np.repeat(np.repeat(cloud, 8, 0), 8, 1)[:height, :width, None]
    image = (image * (1 + 0.05 * cloud)).astype(np.float32)
    return Backdrop(image, np.zeros((height, width), np.float32))


def encode_srgb(linear: np.ndarray) -> np.ndarray:
    """Linear [0, 1] to 8-bit sRGB (IEC 61966-2-1), through a table of 4096 levels."""
    return _SRGB[(np.clip(linear, 0, 1) * (len(_SRGB) - 1) + 0.5).astype(np.int32)]


def _srgb_table(levels: int) -> np.ndarray:
    linear = np.linspace(0, 1, levels)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (encoded * 255 + 0.5).astype(np.uint8)


_SRGB = _srgb_table(4096)
