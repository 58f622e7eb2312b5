"""Face models the tracking tests use."""

from __future__ import annotations

from pathlib import Path

import pytest

from manvatar.face_models import load
from manvatar.types import FaceModel


@pytest.fixture(scope="session")
def builtin() -> FaceModel:
    """The head every installation has."""
    return load("builtin")


@pytest.fixture(scope="session")
def ict(shared_data: Path) -> FaceModel:
    """ICT-FaceKit, where it is; a face the builtin head has never seen."""
    return load(shared_data / "face_models" / "ict_facekit_light.npz")
