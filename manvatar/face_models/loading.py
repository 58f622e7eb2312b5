"""Which loader reads which file, by what is in it.

A new format is a module with ``ACCEPTED``, ``accepts``, ``load`` and, where users may hold a part of it, ``part_of``;
it is listed here.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from manvatar.errors import UserError
from manvatar.face_models import bfm2009, bfm2009_front, bfm_h5, builtin, flame, ict
from manvatar.face_models.embedding import transfer_embedding
from manvatar.types import FaceModel

# In this order: a folder may hold the original 2009 model and the front part made from it, which is complete.
FORMATS: dict[str, ModuleType] = {
    "ICT-FaceKit": ict,
    "Basel Face Model 2009, front": bfm2009_front,
    "Basel Face Model 2009": bfm2009,
    "Basel Face Model 2017 or 2019": bfm_h5,
    "FLAME": flame,
}


def load(name_or_path: str | Path) -> FaceModel:
    """``"builtin"`` or the face model in a file or folder.

    The last few models are kept, so loading one twice costs nothing; nobody may change their tensors.

    Raises:
        UserError: no such file, a file none of the formats accepts, or one with a part missing.
    """
    if name_or_path == "builtin":
        return builtin.load()
    path = existing(name_or_path)
    return _load_file(path.resolve(), path.stat().st_mtime_ns)


def existing(name_or_path: str | Path) -> Path:
    """The path. Raises ``UserError`` when nothing is there."""
    path = Path(name_or_path)
    if not path.exists():
        raise UserError(f"there is no face model {name_or_path}; give 'builtin' or {accepted()}")
    return path


def format_of(path: Path) -> str:
    """Which of ``FORMATS`` a file or folder is.

    Raises:
        UserError: none; where it is a part of one, the sentence says which and what is missing.
    """
    for name, module in FORMATS.items():
        if module.accepts(path):
            return name
    for module in FORMATS.values():
        if hasattr(module, "part_of") and (what := module.part_of(path)):
            raise UserError(f"{path} alone is not a face model: {what}")
    raise UserError(f"{path} is not a face model this version reads; give 'builtin' or {accepted()}")


def accepted() -> str:
    """What :func:`load` reads besides ``builtin``, for messages."""
    return "one of: " + ", ".join(f"{name} ({module.ACCEPTED})" for name, module in FORMATS.items())


@lru_cache(maxsize=2)
def _load_file(path: Path, _modified_ns: int) -> FaceModel:
    return _with_mediapipe(FORMATS[format_of(path)].load(path))


def _with_mediapipe(model: FaceModel) -> FaceModel:
    """Give a model that knows the 68 landmarks only MediaPipe's as well, carried over from the builtin head."""
    if any(embedding.scheme == "mediapipe478" for embedding in model.embeddings):
        return model
    embedding, _ = transfer_embedding(builtin.load(), "mediapipe478", model)
    return replace(model, embeddings=(*model.embeddings, embedding))
