"""3D morphable face models: one loader a file format, one type (:class:`manvatar.types.FaceModel`)."""

from __future__ import annotations

from manvatar.face_models.loading import load

__all__ = ["load", "main"]


def main(argv: list[str] | None = None) -> int:
    """``manvatar face_models``: see :mod:`manvatar.face_models.command`, which is imported only when it is called."""
    from manvatar.face_models.command import main as command

    return command(argv)
