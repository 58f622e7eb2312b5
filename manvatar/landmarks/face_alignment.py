"""The second landmark network: FAN (Bulat and Tzimiropoulos 2017, arXiv 1703.07332), 68 points on the outline.

It runs through the optional package ``face-alignment`` (pip install face-alignment). Its weights are a download of
their own, which this library never starts: the file must be in torch's cache or where the user says. Faces are found
with BlazeFace, so FAN is the only file needed. About a third of a second an image on two CPU cores.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from manvatar.errors import UserError
from manvatar.landmarks.blazeface import FaceFinder
from manvatar.landmarks.detector import Box, Observation
from manvatar.types import LandmarkScheme

WEIGHTS = "2DFAN4-11f355bf06.pth.tar"
_SOURCE = f"https://www.adrianbulat.com/downloads/python-fan/{WEIGHTS}"
# Mean heatmap peak below which the network does not believe in its points (faces give 0.6 to 0.9).
_SCORE_LIMIT = 0.25


class FaceAlignmentDetector:
    """FAN-4 for 68 points, as a :class:`manvatar.landmarks.LandmarkDetector`.

    Args:
        weights: the file ``2DFAN4-11f355bf06.pth.tar`` or a folder that holds it; None = torch's cache.
        device: where the network runs; None = CUDA where there is one.

    Raises:
        UserError: ``face-alignment`` is not installed, or the file is not there.
    """

    scheme: LandmarkScheme = "ibug68"

    def __init__(self, weights: str | Path | None = None, device: str | None = None) -> None:
        try:
            import face_alignment
        except ImportError as error:
            raise UserError(
                "the landmark backend face-alignment is not installed; run: pip install face-alignment, "
                "or use the default backend"
            ) from error
        file = _weights_file(weights)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._finder = FaceFinder()
        with _hub_holding(file):
            # The "folder" detector is a placeholder without weights: boxes are always handed in.
            self._network = face_alignment.FaceAlignment(
                face_alignment.LandmarksType.TWO_D,
                device=device,
                flip_input=False,
                face_detector="folder",
                compile=False,
            )

    def discover(self, image: Tensor, *, thorough: bool = False) -> list[Observation]:
        """Every face in the image, largest first; see :class:`manvatar.landmarks.LandmarkDetector`."""
        found = []
        for face in self._finder.search(image) if thorough else self._finder.find(image):
            rough = self._place(image, _with_forehead(face.box))
            if rough is not None and (exact := self._place(image, _with_forehead(rough.box))) is not None:
                found.append(exact)
        return found

    def follow(self, image: Tensor, previous: Observation) -> Observation | None:
        """The same face in a neighbouring image; None when it is not there any more."""
        return self._place(image, _with_forehead(previous.box))

    def _place(self, image: Tensor, box: Box) -> Observation | None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            points, scores, _ = self._network.get_landmarks_from_image(
                image.numpy(), detected_faces=[np.array([*box, 1.0])], return_landmark_score=True
            )
        positions = np.asarray(points[0], np.float32)[:, :2]
        confidence = np.asarray(scores[0], np.float32).clip(0, 1)
        if not np.isfinite(positions).all() or confidence.mean() < _SCORE_LIMIT:
            return None
        low, high = positions.min(0), positions.max(0)
        return Observation(positions, confidence, (float(low[0]), float(low[1]), float(high[0]), float(high[1])))


def _with_forehead(box: Box) -> Box:
    """The box FAN was trained with reaches up into the forehead; landmarks and BlazeFace boxes end at the brows."""
    left, top, right, bottom = box
    return left, top - 0.2 * (bottom - top), right, bottom


def _weights_file(weights: str | Path | None) -> Path:
    place = Path(torch.hub.get_dir()) / "checkpoints" if weights is None else Path(weights)
    candidates = [place] if place.is_file() else [place / WEIGHTS, place / "checkpoints" / WEIGHTS]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise UserError(
        f"the landmark backend face-alignment needs {WEIGHTS}, which is not in {place}; download it from {_SOURCE} "
        "and put it there, or use the default backend"
    )


@contextmanager
def _hub_holding(file: Path) -> Iterator[None]:
    """While it lasts, torch's cache is a folder that holds just ``file`` under the name the package looks for."""
    before = torch.hub.get_dir()
    with tempfile.TemporaryDirectory(prefix="manvatar-fan-") as folder:
        checkpoints = Path(folder) / "checkpoints"
        checkpoints.mkdir()
        os.symlink(file.resolve(), checkpoints / WEIGHTS)
        torch.hub.set_dir(folder)
        try:
            yield
        finally:
            torch.hub.set_dir(before)
