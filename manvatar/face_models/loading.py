"""Which loader reads which file. A new format is a module with ``ACCEPTED``, ``accepts`` and ``load``, listed here."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from manvatar.errors import UserError
from manvatar.face_models import builtin, ict
from manvatar.face_models.embedding import transfer_embedding
from manvatar.types import FaceModel

FORMATS = (ict,)


def load(name_or_path: str | Path) -> FaceModel:
    """``"builtin"`` or the face model in a file or folder.

    The last few models are kept, so loading one twice costs nothing; nobody may change their tensors.

    Raises:
        UserError: no such file, or a file none of the formats accepts.
    """
    if name_or_path == "builtin":
        return builtin.load()
    path = Path(name_or_path)
    if not path.exists():
        raise UserError(f"there is no face model {name_or_path}; give 'builtin' or {accepted()}")
    return _load_file(path.resolve(), path.stat().st_mtime_ns)


def accepted() -> str:
    """What :func:`load` reads besides ``builtin``, for messages."""
    return " or ".join(f"{module.__name__.rpartition('.')[2].upper()}: {module.ACCEPTED}" for module in FORMATS)


@lru_cache(maxsize=2)
def _load_file(path: Path, _modified_ns: int) -> FaceModel:
    for module in FORMATS:
        if module.accepts(path):
            return _with_mediapipe(module.load(path))
    raise UserError(f"{path} is not a face model this version reads; give 'builtin' or {accepted()}")


def _with_mediapipe(model: FaceModel) -> FaceModel:
    """Give a model that knows the 68 landmarks only MediaPipe's as well, carried over from the builtin head."""
    if any(embedding.scheme == "mediapipe478" for embedding in model.embeddings):
        return model
    embedding, _ = transfer_embedding(builtin.load(), "mediapipe478", model)
    return replace(model, embeddings=(*model.embeddings, embedding))
