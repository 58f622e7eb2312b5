"""What other networks see in a rendered face: whether its landmarks are where the truth has them, and who it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from manvatar.baselines.identity_score import IdentityScore
from manvatar.landmarks import LandmarkDetector, as_ibug68, make_detector
from manvatar.metrics import white_composite
from manvatar.threads import one_thread
from manvatar.types import Dataset, Landmarks

Renderer = Callable[[int], Float[Tensor, "height width 3"]]  # dataset row -> image on white, [0, 1]

_OUTER_EYE_CORNERS = (36, 45)
_MOUTH = slice(48, 68)


@dataclass(frozen=True)
class FaceError:
    """Mean distances of landmarks found in renderings to those found in the truth; None where no face was found."""

    all_px: float | None
    mouth_px: float | None
    normalized: float | None  # all 68, divided by the distance of the outer eye corners
    frames: int  # in which a face was found in both
    missed: int  # in which the rendering shows none
    csim: float | None = None  # mean cosine of identity embeddings; None without their weights


class FaceJudge:
    """Finds landmarks in the held-out frames of a dataset once, and compares renderings with them.

    Both are judged by the same network on the same background, so that its own bias cancels.
    """

    def __init__(
        self, dataset: Dataset, detector: LandmarkDetector | None = None, identity: IdentityScore | None = None
    ) -> None:
        self.dataset, self.identity = dataset, identity
        self.detector = detector or make_detector("auto")
        self.truth = {}
        for row in dataset.held_out.tolist():
            with one_thread():
                faces = self.detector.discover(_to8(white_composite(dataset.images[row])))
            if faces:
                self.truth[row] = faces[0]

    def __call__(self, renderer: Renderer) -> FaceError:
        """Of what ``renderer`` shows for the held-out rows whose truth shows a face."""
        everything, mouths, parts, alike = [], [], [], []
        for row, face in self.truth.items():
            image = renderer(row).detach().cpu().clamp(0, 1)
            with one_thread():
                found = self.detector.follow(_to8(image), face)
            if found is None:
                continue
            wanted, got = self._points(face.points_px), self._points(found.points_px)
            distance = (wanted - got).norm(dim=1)
            eyes = float((wanted[_OUTER_EYE_CORNERS[0]] - wanted[_OUTER_EYE_CORNERS[1]]).norm())
            everything.append(float(distance.mean()))
            mouths.append(float(distance[_MOUTH].mean()))
            parts.append(everything[-1] / eyes)
            if self.identity is not None:
                alike.append(self.identity(white_composite(self.dataset.images[row]), image, wanted, got))
        found = len(everything)
        means = (_mean(everything), _mean(mouths), _mean(parts))
        return FaceError(*means, frames=found, missed=len(self.truth) - found, csim=_mean(alike))

    def _points(self, points_px: object) -> Float[Tensor, "68 2"]:
        points = torch.as_tensor(points_px)[None].float()
        confidence, detected = torch.ones(points.shape[:2]), torch.ones(1, dtype=torch.bool)
        return as_ibug68(Landmarks(points, confidence, detected, self.detector.scheme)).points_px[0]


def _to8(image: Float[Tensor, "height width 3"]) -> Tensor:
    return (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
