"""Finding faces: MediaPipe's BlazeFace networks (Bazarevsky et al. 2019, arXiv 1907.05047), run with LiteRT."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from manvatar.landmarks.litert import LiteNetwork
from manvatar.landmarks.regions import Region, cut
from manvatar.models import ensure

_SUPPRESSION_IOU = 0.3
_SCORE = 0.5


@dataclass(frozen=True)
class Face:
    """One detected face, image pixels."""

    box: tuple[float, float, float, float]  # left, top, right, bottom
    keypoints: np.ndarray  # (6, 2): subject's right eye, left eye, nose tip, mouth, right ear, left ear
    score: float  # (0, 1)

    @property
    def size_px(self) -> float:
        """Longer side of the box."""
        return max(self.box[2] - self.box[0], self.box[3] - self.box[1])

    def region(self) -> Region:
        """The square in which the landmark network looks for this face: upright eyes, half as large again."""
        left, top, right, bottom = self.box
        across = self.keypoints[1] - self.keypoints[0]
        angle = math.atan2(across[1], across[0])
        return Region((left + right) / 2, (top + bottom) / 2, 1.5 * self.size_px, angle)


def _anchors(input_px: int, layers: tuple[tuple[int, int], ...]) -> np.ndarray:
    """(anchors, 2) centres in 0..1; ``layers`` lists (stride in pixels, anchors at each position)."""
    rows = []
    for stride, repeats in layers:
        count = input_px // stride
        y, x = np.mgrid[0:count, 0:count]
        centers = (np.stack([x, y], -1).reshape(-1, 2) + 0.5) / count
        rows.append(np.repeat(centers, repeats, 0))
    return np.concatenate(rows)


class _Network:
    def __init__(self, model: str, layers: tuple[tuple[int, int], ...], boxes: str, scores: str) -> None:
        self.network = LiteNetwork(ensure(model))
        self.input_px = self.network.input_size[0]
        self.anchors = _anchors(self.input_px, layers)
        self.boxes, self.scores = boxes, scores

    def __call__(self, image: Tensor, region: Region) -> list[Face]:
        """Every anchor above the threshold, not yet suppressed, best first."""
        outputs = self.network(cut(image, region, self.input_px) * 2 - 1)
        logits = outputs[self.scores][:, 0].astype(np.float64).clip(-80, 80)
        scores = 1 / (1 + np.exp(-logits))
        keep = np.flatnonzero(scores >= _SCORE)
        keep = keep[np.argsort(-scores[keep], kind="stable")]
        values = outputs[self.boxes][keep].astype(np.float64) / self.input_px
        centers, sizes = values[:, :2] + self.anchors[keep], values[:, 2:4]
        points = values[:, 4:].reshape(-1, 6, 2) + self.anchors[keep][:, None]
        low, high = region.to_image(centers - sizes / 2), region.to_image(centers + sizes / 2)
        points = region.to_image(points)
        return [
            Face((*map(float, a), *map(float, b)), c, float(scores[i]))
            for a, b, c, i in zip(low, high, points, keep, strict=True)
        ]


class FaceFinder:
    """Finds faces in one image.

    ``find`` looks once at the whole image and, when nothing is there, once more with the network for small faces.
    ``search`` also looks at overlapping tiles: about thirty times the work, and it sees faces down to about 24 pixels.
    """

    def __init__(self) -> None:
        layers = ((8, 2), (16, 6))
        self._near = _Network("face_detection_short_range", layers, "regressors", "classificators")
        self._far = _Network("face_detection_full_range_sparse", ((4, 1),), "Identity", "Identity_1")

    def find(self, image: Tensor, *, everyone: bool = False) -> list[Face]:
        """Faces of a (height, width, 3) uint8 image, largest first; ``everyone`` asks both networks always."""
        whole = _whole(image)
        faces = self._near(image, whole)
        if everyone or not faces:
            faces = faces + self._far(image, whole)
        return suppress(faces)

    def search(self, image: Tensor) -> list[Face]:
        """As :meth:`find`, over tiles of one half and one quarter of the image's longer side."""
        found = self.find(image, everyone=True)
        for parts in (2, 4):
            for tile in _tiles(image, parts):
                # A face cut by the tile's edge is seen whole by the neighbouring tile.
                found += [face for face in self._near(image, tile) if _inside(face, tile, image)]
            if found:
                break
        return suppress(found)


def suppress(faces: list[Face]) -> list[Face]:
    """Merge overlapping detections, weighted by score (BlazeFace's substitute for suppression); largest first."""
    rest = sorted(faces, key=lambda face: -face.score)
    merged = []
    while rest:
        overlap = [intersection_over_union(rest[0].box, face.box) for face in rest]
        group = [face for face, value in zip(rest, overlap, strict=True) if value > _SUPPRESSION_IOU] or rest[:1]
        rest = [face for face in rest if not any(face is one for one in group)]
        weights = np.array([face.score for face in group])
        weights /= weights.sum()
        box = np.tensordot(weights, np.array([face.box for face in group]), 1)
        points = np.tensordot(weights, np.array([face.keypoints for face in group]), 1)
        merged.append(Face(tuple(float(value) for value in box), points, group[0].score))
    return sorted(merged, key=lambda face: -face.size_px)


def intersection_over_union(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Of two boxes (left, top, right, bottom)."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def _whole(image: Tensor) -> Region:
    height, width = image.shape[:2]
    return Region(width / 2, height / 2, float(max(height, width)))


def _tiles(image: Tensor, parts: int) -> list[Region]:
    """Squares of the longer side / ``parts`` that cover the image, overlapping by half."""
    height, width = image.shape[:2]
    size = max(height, width) / parts

    def centers(length: int) -> np.ndarray:
        count = max(1, math.ceil(length / (size / 2)) - 1)
        return np.linspace(min(size, length) / 2, max(length - size / 2, length / 2 if length < size else 0), count)

    return [Region(float(x), float(y), size) for y in centers(height) for x in centers(width)]


def _inside(face: Face, tile: Region, image: Tensor) -> bool:
    height, width = image.shape[:2]
    x, y = (face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2
    margin = 0.5 * tile.size_px - 0.4 * face.size_px
    near_x = abs(x - tile.x) <= margin or x < face.size_px or x > width - face.size_px
    near_y = abs(y - tile.y) <= margin or y < face.size_px or y > height - face.size_px
    return near_x and near_y
