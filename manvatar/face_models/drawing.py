"""Pictures of a face model: its mean, landmarks and first modes on one sheet, parallel projection, plain shading."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from manvatar.mark import font
from manvatar.ops.rasterize import rasterize
from manvatar.types import FaceModel

COLUMNS = 6
CELL_PX = (220, 260)
OVERSAMPLING = 2
ASPECT = 1.25  # height of what is shown by the width of the head
MARGIN = 0.04  # of a cell, around the largest view
LABEL_PX = 15
MODE_SD = 2.0
IDENTITY_MODES, EXPRESSION_MODES = 3, 6
VIEWS = {
    "front": 0.0,
    "three quarters right": math.radians(35),
    "three quarters left": math.radians(-35),
    "profile": math.radians(-90),
}
LIGHT = np.array((-0.35, 0.5, 0.8))  # from the upper left of the picture, towards the viewer
COLORS: tuple[tuple[str, tuple[float, float, float]], ...] = (  # the first that is in a part's name
    ("eyeball", (0.93, 0.94, 0.96)),
    ("teeth", (0.96, 0.94, 0.86)),
    ("tongue", (0.80, 0.45, 0.43)),
    ("mouth", (0.55, 0.27, 0.26)),
    ("gums", (0.75, 0.40, 0.40)),
    ("", (0.80, 0.68, 0.60)),
)
BACKGROUND, TEXT = (255, 255, 255), (40, 40, 40)
DOT_COLORS = {"ibug68": (200, 30, 30), "mediapipe478": (20, 90, 200)}


def sheet(model: FaceModel) -> UInt8[Tensor, "height width 3"]:
    """The mean from three sides, the landmarks on it, and the first modes at plus and minus ``MODE_SD``.

    Raises:
        UserError: the native library is not built.
    """
    painter = _Painter(model)
    mean = model.mean_m.double().numpy()
    cells = [(f"mean, {name}", painter.view(mean, angle)) for name, angle in VIEWS.items()]
    for embedding in model.embeddings:
        cells.append((embedding.scheme, painter.view(mean, 0.0, embedding.scheme)))
    cells += [("", Image.new("RGB", CELL_PX, BACKGROUND))] * (-len(cells) % COLUMNS)
    modes = [(f"identity {k}", mode) for k, mode in enumerate(model.identity_basis_m[:IDENTITY_MODES])]
    modes += [(model.expression_names[k], model.expression_basis_m[k]) for k in _shown_expressions(model)]
    for name, mode in modes:
        for sign in (-1, 1):
            face = mean + sign * MODE_SD * mode.double().numpy()
            cells.append((f"{name} {sign * MODE_SD:+g} sd", painter.view(face, 0.0)))
    return torch.from_numpy(_arranged(cells))


def _shown_expressions(model: FaceModel) -> list[int]:
    """The first ones; FLAME's opening jaw, which is its last but one, takes the place of the last of them."""
    shown = list(range(min(EXPRESSION_MODES, len(model.expression_names))))
    jaw = [k for k, name in enumerate(model.expression_names) if name == "jawOpen"]
    if jaw and jaw[0] not in shown:
        shown[-1] = jaw[0]
    return shown


class _Painter:
    """Draws faces of one model, all to the same scale."""

    def __init__(self, model: FaceModel) -> None:
        self.model, self.triangles = model, model.triangles
        used = model.triangles.unique()
        mean = model.mean_m[used].numpy()
        shown = MODE_SD * model.identity_basis_m[:IDENTITY_MODES, used].abs().amax(0).numpy()
        low, high = (mean - shown).min(0), (mean + shown).max(0)
        # Wide enough for the head seen from any side; a neck that goes on for long is cut off at the lower edge.
        self.extent = float(max(high[0] - low[0], high[2] - low[2]))
        top, middle = high[1], (low + high) / 2
        self.middle = np.array((middle[0], max(middle[1], top - ASPECT * self.extent / 2), middle[2]))
        self.color = self._colors()

    def view(self, vertices: np.ndarray, angle: float, scheme: str | None = None) -> Image.Image:
        """The face turned about the vertical by ``angle``, with dots for the landmarks of ``scheme``."""
        width, height = (OVERSAMPLING * size for size in CELL_PX)
        scale = (1 - 2 * MARGIN) * min(width / self.extent, height / (ASPECT * self.extent))
        turn = np.array([[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]])
        seen = (vertices - self.middle) @ turn.T
        points = np.stack([width / 2 + scale * seen[:, 0], height / 2 - scale * seen[:, 1]], 1)
        depth = 10 - seen[:, 2]  # parallel projection: any distance will do, as long as all are in front
        picture = Image.fromarray(self._shaded(points, depth, seen, (width, height)))
        picture = picture.resize(CELL_PX, Image.Resampling.BOX)
        if scheme is not None:
            self._dots(picture, points / OVERSAMPLING, scheme)
        return picture

    def _shaded(self, points: np.ndarray, depth: np.ndarray, seen: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        found = rasterize(
            torch.from_numpy(points.astype(np.float32))[None],
            torch.from_numpy(depth.astype(np.float32))[None],
            self.triangles,
            size,
        )
        triangle, weight = found.triangle[0].numpy(), found.barycentric[0].numpy()
        hit = triangle >= 0
        corners = self.triangles.numpy()[triangle[hit]]
        normal = (_normals(seen, self.triangles.numpy())[corners] * weight[hit][..., None]).sum(1)
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
        light = np.clip(normal @ (LIGHT / np.linalg.norm(LIGHT)), 0, 1)
        away = normal[:, 2] < 0  # the inside of an open mask
        light = np.where(away, 0.1, light)
        image = np.full((size[1], size[0], 3), BACKGROUND, np.uint8)
        shade = self.color[triangle[hit]] * (0.35 + 0.65 * light[:, None])
        image[hit] = np.round(255 * np.clip(shade, 0, 1))
        return image

    def _dots(self, picture: Image.Image, points: np.ndarray, scheme: str) -> None:
        embedding = self.model.embedding(scheme)
        corners = points[self.triangles[embedding.triangle].numpy()]
        places = (corners * embedding.barycentric.double().numpy()[..., None]).sum(1)
        draw, radius = ImageDraw.Draw(picture), 1.8 if len(places) < 100 else 1.0
        for (x, y), weight in zip(places, embedding.weight.tolist(), strict=True):
            color = DOT_COLORS.get(scheme, TEXT) if weight > 0 else (150, 150, 150)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)

    def _colors(self) -> np.ndarray:
        """(T, 3)"""
        part = self.model.vertex_part
        if part is None:
            return np.tile(COLORS[-1][1], (len(self.triangles), 1))
        of_part = [next(color for word, color in COLORS if word in name) for name in self.model.part_names]
        return np.array(of_part)[part[self.triangles[:, 0]].numpy()]


def _normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Vertex normals (V, 3), weighted by area, not of unit length."""
    corners = vertices[triangles]
    face = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    result = np.zeros_like(vertices)
    for corner in range(3):
        for axis in range(3):
            result[:, axis] += np.bincount(triangles[:, corner], face[:, axis], minlength=len(vertices))
    return result


def _arranged(cells: list[tuple[str, Image.Image]]) -> np.ndarray:
    rows = -(-len(cells) // COLUMNS)
    high = CELL_PX[1] + LABEL_PX + 4
    whole = Image.new("RGB", (COLUMNS * CELL_PX[0], rows * high), BACKGROUND)
    draw, letters = ImageDraw.Draw(whole), font(LABEL_PX - 2)
    for index, (title, picture) in enumerate(cells):
        x, y = index % COLUMNS * CELL_PX[0], index // COLUMNS * high
        draw.text((x + 5, y + 2), title, TEXT, font=letters)
        whole.paste(picture, (x, y + LABEL_PX + 4))
    return np.array(whole)
