"""What every loader of a licensed model does at the end: units, origin, winding, landmarks, checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from manvatar.types import FaceModel, LandmarkEmbedding

IDENTITY_COUNT = 80  # what the 80-coefficient models of the field keep
EXPRESSION_COUNT = 32  # what ManVatar keeps
EYE_CORNERS = (36, 39, 42, 45)
# Outer eye corners of adults are 80 to 105 mm apart; anything far from that is a wrong unit or a wrong landmark.
OUTER_CORNERS_M = (0.05, 0.16)


@dataclass(frozen=True)
class Shapes:
    """A linear model as its file holds it: its own unit, axes x to the subject's left, y up, z out of the face."""

    id: str
    mean: np.ndarray  # (V, 3)
    identity: np.ndarray  # (I, V, 3), displacement per standard deviation
    expression: np.ndarray  # (E, V, 3), displacement per standard deviation
    expression_names: tuple[str, ...]
    triangles: np.ndarray  # (T, 3), from 0, wound alike, either way
    metres_per_unit: float
    part_names: tuple[str, ...] = ("face",)
    vertex_part: np.ndarray | None = None  # (V,)


def assemble(shapes: Shapes, embedding: LandmarkEmbedding) -> FaceModel:
    """The internal model: metres, origin between the four eye corners, triangles counter-clockwise from outside.

    ``embedding`` (iBUG-68) refers to ``shapes.triangles`` as they are; its weights follow when triangles are turned.

    Raises:
        ValueError: values that are not finite, or outer eye corners at an impossible distance.
    """
    for name, values in (("mean", shapes.mean), ("identity", shapes.identity), ("expression", shapes.expression)):
        if not np.isfinite(values).all():
            raise ValueError(f"its {name} holds values that are not finite")
    triangles, barycentric = shapes.triangles.astype(np.int64), embedding.barycentric
    if not faces_out(shapes.mean, triangles):
        triangles, barycentric = triangles[:, ::-1].copy(), barycentric.flip(1)
    embedding = LandmarkEmbedding("ibug68", embedding.triangle, barycentric, embedding.weight)
    corners = shapes.mean[triangles[embedding.triangle.numpy()]]
    points = (corners * barycentric.double().numpy()[..., None]).sum(1)
    apart = float(np.linalg.norm(points[45] - points[36])) * shapes.metres_per_unit
    if not OUTER_CORNERS_M[0] < apart < OUTER_CORNERS_M[1]:
        raise ValueError(f"its outer eye corners are {1000 * apart:.3g} mm apart, so the unit or a landmark is wrong")
    part = None if shapes.vertex_part is None else torch.from_numpy(shapes.vertex_part.astype(np.int64))
    return FaceModel(
        id=shapes.id,
        mean_m=_metres(shapes.mean - points[list(EYE_CORNERS)].mean(0), shapes),
        identity_basis_m=_metres(shapes.identity, shapes),
        expression_basis_m=_metres(shapes.expression, shapes),
        expression_names=shapes.expression_names,
        triangles=torch.from_numpy(triangles),
        embeddings=(embedding,),
        part_names=shapes.part_names,
        vertex_part=part,
    )


def faces_out(vertices: np.ndarray, triangles: np.ndarray) -> bool:
    """Whether triangles (T, 3) run counter-clockwise seen from outside: a positive volume about the mesh's own centre.

    A mask that is open at the back encloses a positive volume, too, seen from that centre, which lies behind it.
    """
    corners = vertices[triangles].astype(np.float64)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    centre = corners.reshape(-1, 3).mean(0)
    return bool((normal * (corners.mean(1) - centre)).sum() > 0)


def vertex_embedding(vertices: Sequence[int] | np.ndarray, triangles: np.ndarray) -> LandmarkEmbedding:
    """The iBUG-68 landmarks as vertices (68,): for each, the first triangle it is a corner of.

    Raises:
        ValueError: a vertex belongs to no triangle, or there are not 68.
    """
    wanted = np.asarray(vertices, np.int64)
    if wanted.shape != (68,):
        raise ValueError(f"it lists {wanted.size} landmark vertices instead of 68")
    flat = triangles.ravel()
    order = np.argsort(flat, kind="stable")
    place = np.searchsorted(flat[order], wanted)
    found = order[np.minimum(place, len(order) - 1)]
    if (flat[found] != wanted).any():
        raise ValueError(f"landmark vertices {wanted[flat[found] != wanted].tolist()} belong to no triangle")
    barycentric = np.eye(3, dtype=np.float32)[found % 3]
    return LandmarkEmbedding("ibug68", torch.from_numpy(found // 3), torch.from_numpy(barycentric), torch.ones(68))


def kept_vertices(triangles: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Triangles (T, 3) that use ``kept`` (V,) bool vertices only, renumbered; and old -> new number, -1 = gone."""
    number = np.where(kept, np.cumsum(kept) - 1, -1)
    renumbered = number[triangles]
    return renumbered[(renumbered >= 0).all(1)], number


def columns_as_modes(columns: np.ndarray, scale: np.ndarray | None = None) -> np.ndarray:
    """(3V, N) with interleaved coordinates, optionally times ``scale`` (N,), as float32 modes (N, V, 3)."""
    modes = np.ascontiguousarray(columns.T, dtype=np.float32)
    if scale is not None:
        modes *= np.asarray(scale, np.float32)[:, None]
    return modes.reshape(len(modes), -1, 3)


def checked_triangles(triangles: np.ndarray, vertex_count: int) -> np.ndarray:
    """Triangles (T, 3) as int64. Raises ``ValueError`` when they do not fit ``vertex_count``."""
    result = np.asarray(triangles).astype(np.int64)
    if result.ndim != 2 or result.shape[1] != 3 or not len(result):
        raise ValueError(f"its triangles have the shape {result.shape} instead of (T, 3)")
    if result.min() < 0 or result.max() >= vertex_count:
        raise ValueError(f"its triangles name vertices {result.min()} to {result.max()} of {vertex_count}")
    return result


def _metres(values: np.ndarray, shapes: Shapes) -> torch.Tensor:
    return torch.from_numpy((np.asarray(values) * shapes.metres_per_unit).astype(np.float32))
