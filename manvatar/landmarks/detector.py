"""What a landmark network has to offer, and the networks there are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from manvatar.errors import UserError
from manvatar.landmarks.blazeface import FaceFinder, intersection_over_union
from manvatar.landmarks.facemesh import FaceMesher, Mesh
from manvatar.landmarks.schemes import MEDIAPIPE_LEFT_IRIS, MEDIAPIPE_RIGHT_IRIS
from manvatar.types import LandmarkScheme

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Observation:
    """The landmarks of one face in one image."""

    points_px: np.ndarray  # (K, 2) float32
    confidence: np.ndarray  # (K,) float32, [0, 1]
    box: Box  # left, top, right, bottom

    @property
    def size_px(self) -> float:
        """Longer side of the box."""
        return max(self.box[2] - self.box[0], self.box[3] - self.box[1])


@runtime_checkable
class LandmarkDetector(Protocol):
    """Finds faces anywhere in an image, and the same face again in a neighbouring image of the clip.

    Images are (height, width, 3) uint8 tensors, sRGB, upright.
    """

    scheme: LandmarkScheme

    def discover(self, image: Tensor, *, thorough: bool = False) -> list[Observation]:
        """Every face in the image, largest first; ``thorough`` spends more time to see small ones."""
        ...

    def follow(self, image: Tensor, previous: Observation) -> Observation | None:
        """The face that ``previous`` showed in a neighbouring image; None when it is not there any more."""
        ...


class MediaPipeDetector:
    """The default: BlazeFace and MediaPipe's attention mesh through LiteRT (about 4 ms an image on one core)."""

    scheme: LandmarkScheme = "mediapipe478"
    presence_limit = 0.5

    def __init__(self, *, as_mediapipe: bool = False) -> None:
        self._finder = FaceFinder()
        self._mesher = FaceMesher(as_mediapipe=as_mediapipe)

    def discover(self, image: Tensor, *, thorough: bool = False) -> list[Observation]:
        faces = self._finder.search(image) if thorough else self._finder.find(image)
        found = []
        for face in faces:
            # A detection places its region less exactly than a mesh does, so the mesh is placed twice.
            rough = self._mesher(image, face.region())
            if rough.presence >= self.presence_limit:
                mesh = self._mesher(image, rough.region())
                if mesh.presence >= self.presence_limit:
                    found.append(_observation(mesh, image))
        return found

    def follow(self, image: Tensor, previous: Observation) -> Observation | None:
        mesh = self._mesher(image, Mesh(previous.points_px, 1.0).region())
        return _observation(mesh, image) if mesh.presence >= self.presence_limit else None


def _observation(mesh: Mesh, image: Tensor) -> Observation:
    """One presence serves all points; points outside the picture and irises of closed eyes are guesses."""
    points = mesh.points_px
    height, width = image.shape[:2]
    inside = ((points >= 0) & (points <= [width, height])).all(-1)
    confidence = np.where(inside, mesh.presence, 0).astype(np.float32)
    for iris, lids, corners in (
        (MEDIAPIPE_RIGHT_IRIS, (159, 145), (33, 133)),
        (MEDIAPIPE_LEFT_IRIS, (386, 374), (263, 362)),
    ):
        opening, width_px = (np.linalg.norm(points[a] - points[b]) for a, b in (lids, corners))
        # Full trust from an opening of 0.15 of the eye's width, none when shut.
        confidence[list(iris)] *= np.clip((opening / max(width_px, 1e-6) - 0.05) / 0.1, 0, 1)
    return Observation(points, confidence, mesh.box)


def overlap(a: Observation, b: Observation) -> float:
    """Intersection over union of the boxes of two observations."""
    return intersection_over_union(a.box, b.box)


def make_detector(backend: str, weights: str | Path | None = None) -> LandmarkDetector:
    """The detector named ``auto`` (= ``mediapipe``), ``mediapipe`` or ``face-alignment``, or a folder of OpenSeeFace's.

    Args:
        backend: its name, or the folder with the networks of OpenSeeFace.
        weights: folder with the networks of ``face-alignment``; None = that library's own cache.

    Raises:
        ValueError: unknown name.
        UserError: what the backend needs is not installed or cannot be obtained.
    """
    if backend in ("auto", "mediapipe"):
        return MediaPipeDetector()
    if backend == "face-alignment":
        from manvatar.landmarks.face_alignment import FaceAlignmentDetector

        return FaceAlignmentDetector(weights)
    if backend == "openseeface":
        raise UserError("OpenSeeFace is named by the folder of its networks: give --landmarks OpenSeeFace/models")
    if Path(backend).is_dir():
        from manvatar.landmarks.openseeface import OpenSeeFaceDetector

        return OpenSeeFaceDetector(backend)
    raise ValueError(f"unknown landmark backend {backend!r}; known are auto, mediapipe, face-alignment")
