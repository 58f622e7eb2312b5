"""478 points of one face: MediaPipe's face mesh (Kartynnik et al. 2019, arXiv 1907.06724) and iris (Ablavatski et al.
2020, arXiv 2006.11341) networks, run with LiteRT.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from manvatar.landmarks.litert import LiteNetwork
from manvatar.landmarks.regions import Region, cut
from manvatar.landmarks.schemes import (
    MEDIAPIPE_LEFT_LOWER_LID,
    MEDIAPIPE_LEFT_UPPER_LID,
    MEDIAPIPE_RIGHT_LOWER_LID,
    MEDIAPIPE_RIGHT_UPPER_LID,
)
from manvatar.models import ensure

MESH_POINTS = 468
_RIGHT_EYE, _LEFT_EYE = (33, 133), (263, 362)  # outer and inner corner; the subject's own right and left
# The mesh network hardly sees a blink: of the changes of opening that MediaPipe's attention mesh shows it has 44 to
# 60 %, the iris network's contour 89 to 110 % (three clips). The contour comes for nothing, so the lids are taken from
# it, but not the corners, which it puts too far inside. Its first points are the lower lid from the outer corner to the
# inner one, then the upper lid without corners.
_CONTOUR = (*range(1, 8), *range(9, 16))
_RIGHT_LIDS = (*MEDIAPIPE_RIGHT_LOWER_LID[1:-1], *MEDIAPIPE_RIGHT_UPPER_LID[1:-1])
_LEFT_LIDS = (*MEDIAPIPE_LEFT_LOWER_LID[1:-1], *MEDIAPIPE_LEFT_UPPER_LID[1:-1])
_PRESENCE_LOGIT_LIMIT = 40.0


@dataclass(frozen=True)
class Mesh:
    """One face in one image."""

    points_px: np.ndarray  # (478, 2) float32; NaN irises when they were not asked for
    presence: float  # (0, 1): that there is a face in the region at all

    def region(self) -> Region:
        """Where to look for the same face in the next image: half as large again as the points, eyes level."""
        mesh = self.points_px[:MESH_POINTS]
        low, high = mesh.min(0), mesh.max(0)
        across = mesh[_LEFT_EYE[0]] - mesh[_RIGHT_EYE[0]]
        center, angle = (low + high) / 2, math.atan2(float(across[1]), float(across[0]))
        return Region(float(center[0]), float(center[1]), 1.5 * float((high - low).max()), angle)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the mesh."""
        low, high = self.points_px[:MESH_POINTS].min(0), self.points_px[:MESH_POINTS].max(0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


class FaceMesher:
    """Places the points of a face inside a region that is known to hold one.

    Args:
        as_mediapipe: sample the image half a network pixel off, as MediaPipe's CPU build does, and leave the lids as
            the mesh network has them, to compare with MediaPipe. The mesh network answers mirrored images
            symmetrically about the exact centre (measured: 96.05 of 192), so sampling exactly, the default, is what
            it was trained for.
    """

    def __init__(self, *, as_mediapipe: bool = False) -> None:
        self._as_mediapipe = as_mediapipe
        self._mesh = LiteNetwork(ensure("face_landmark"))
        self._iris = LiteNetwork(ensure("iris_landmark"))

    def __call__(self, image: Tensor, region: Region, *, iris: bool = True) -> Mesh:
        """
        Args:
            image: (height, width, 3) uint8, sRGB.
            region: around the face, from a detection or from the previous image's :meth:`Mesh.region`.
            iris: also place the ten iris points and the lids (three times the work).
        """
        side = self._mesh.input_size[0]
        outputs = self._mesh(self._cut(image, region, side))
        logit = float(outputs["conv2d_31"].reshape(-1)[0])
        presence = 1 / (1 + math.exp(-max(min(logit, _PRESENCE_LOGIT_LIMIT), -_PRESENCE_LOGIT_LIMIT)))
        points = np.full((MESH_POINTS + 10, 2), np.nan, np.float32)
        points[:MESH_POINTS] = region.to_image(outputs["conv2d_21"].reshape(-1, 3)[:, :2] / side)
        if iris:
            first = MESH_POINTS
            for eye, lids in ((_RIGHT_EYE, _RIGHT_LIDS), (_LEFT_EYE, _LEFT_LIDS)):
                contour, rim = self._eye_points(image, points, eye, region.angle_rad)
                points[first : first + 5] = rim
                first += 5
                if not self._as_mediapipe:
                    points[list(lids)] = contour[list(_CONTOUR)]
        return Mesh(points, presence)

    def _cut(self, image: Tensor, region: Region, side: int) -> np.ndarray:
        return cut(image, region.shifted_as_mediapipe(side) if self._as_mediapipe else region, side)

    def _eye_points(
        self, image: Tensor, points: np.ndarray, eye: tuple[int, int], angle: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Contour and brow (71, 2), and centre and four rim points of the iris (5, 2), of one eye."""
        outer, inner = points[eye[0]], points[eye[1]]
        center = (outer + inner) / 2
        # Boxes are measured along the image's axes, as MediaPipe does; the region is turned with the eyes.
        size = 2.3 * float(np.abs(outer - inner).max())
        # The network knows one eye only, the one at 33 / 133 in its own terms "left"; the other goes in mirrored.
        region = Region(float(center[0]), float(center[1]), size, angle, mirrored=eye == _LEFT_EYE)
        side = self._iris.input_size[0]
        outputs = self._iris(self._cut(image, region, side))
        contour, rim = (
            region.to_image(outputs[name].reshape(-1, 3)[:, :2] / side).astype(np.float32)
            for name in ("output_eyes_contours_and_brows", "output_iris")
        )
        return contour, rim
