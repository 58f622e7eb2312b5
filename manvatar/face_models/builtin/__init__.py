"""``builtin``: a head this project makes itself, from anthropometric means and smooth functions; no data file."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from manvatar.face_models.builtin.expressions import MODES, expression_modes
from manvatar.face_models.builtin.head import PARTS, Head, build_head
from manvatar.face_models.builtin.identity import identity_modes
from manvatar.face_models.builtin.landmarks import embedding_68, embedding_478
from manvatar.types import FaceModel

__all__ = ["ID", "Head", "build_head", "load"]

ID = "builtin-1"


@lru_cache(maxsize=1)
def load() -> FaceModel:
    """The builtin model; made on the first call (1 to 2 s), then kept."""
    head = build_head()
    embedding = embedding_68(head)
    corners = head.vertices[head.triangles[embedding.triangle.numpy()]]
    points = (corners * embedding.barycentric.numpy()[..., None]).sum(1)
    origin = points[[36, 39, 42, 45]].mean(0)
    return FaceModel(
        id=ID,
        mean_m=_metres(head.vertices - origin),
        identity_basis_m=_metres(identity_modes(head.vertices)),
        expression_basis_m=_metres(expression_modes(head)),
        expression_names=tuple(MODES),
        triangles=torch.from_numpy(head.triangles.astype(np.int64)),
        embeddings=(embedding, embedding_478(head)),
        part_names=PARTS,
        vertex_part=torch.from_numpy(head.part),
    )


def _metres(millimetres: np.ndarray) -> torch.Tensor:
    return torch.from_numpy((millimetres * 1e-3).astype(np.float32))
