"""3D morphable face models: one loader a file format, one type (:class:`manvatar.types.FaceModel`)."""

from __future__ import annotations

from manvatar.face_models.loading import load

__all__ = ["load"]
