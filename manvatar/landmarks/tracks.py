"""Following every face of a clip forward in time, and choosing whose avatar it will be."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from manvatar.landmarks.detector import LandmarkDetector, Observation, overlap

_MOST_FACES = 4  # followed at the same time, the largest ones
_LOOK_AROUND = 15  # frames between searches for further faces while one is being followed
_THOROUGH = 8  # while none is, every so many frames the search is a thorough one
_SAME_FACE = 0.5  # overlap from which two observations of one frame are the same face
_JUMPED = 0.15  # overlap with the previous frame below which a followed face was not followed at all


@dataclass
class FaceRun:
    """One face over consecutive frames, without a gap."""

    first: int
    seen: list[Observation] = field(default_factory=list)

    @property
    def stop(self) -> int:
        """The frame after the last."""
        return self.first + len(self.seen)

    def since(self, frame: int) -> FaceRun:
        """What of it is not before a frame."""
        return FaceRun(max(self.first, frame), self.seen[max(frame - self.first, 0) :])

    @property
    def weight(self) -> float:
        """How much of the clip it is: the sizes of the face in all its frames, added up."""
        return sum(observation.size_px for observation in self.seen)


class FaceFollower:
    """Fed the frames of a clip in order; collects the runs of all faces in them.

    Args:
        detector: finds and follows faces.
    """

    def __init__(self, detector: LandmarkDetector) -> None:
        self._detector = detector
        self._active: list[FaceRun] = []
        self._done: list[FaceRun] = []
        self._without = 0

    def add(self, index: int, image: Tensor) -> None:
        """Take frame ``index``: (height, width, 3) uint8."""
        still = []
        for run in self._active:
            now = follow(self._detector, image, run.seen[-1])
            if now is None or any(overlap(now, other.seen[-1]) > _SAME_FACE for other in still):
                self._done.append(run)  # lost, or it slid onto another face
            else:
                run.seen.append(now)
                still.append(run)
        if not still or index % _LOOK_AROUND == 0:
            thorough = not still and self._without % _THOROUGH == 0
            for face in self._detector.discover(image, thorough=thorough):
                if all(overlap(face, run.seen[-1]) < 0.3 for run in still):
                    still.append(FaceRun(index, [face]))
        self._without = 0 if still else self._without + 1
        still.sort(key=lambda run: -run.seen[-1].size_px)
        self._active = still[:_MOST_FACES]
        self._done += still[_MOST_FACES:]

    def runs(self) -> list[FaceRun]:
        """All runs so far, in order of their first frame."""
        return sorted(self._done + self._active, key=lambda run: run.first)


def follow(detector: LandmarkDetector, image: Tensor, previous: Observation) -> Observation | None:
    """``detector.follow``, refusing what moved so far that it cannot be the same face (a cut, a false hit)."""
    now = detector.follow(image, previous)
    return None if now is None or overlap(now, previous) < _JUMPED else now


def people(runs: list[FaceRun]) -> list[list[FaceRun]]:
    """Put the runs of one person together: a later run near where an earlier one ended, of similar size.

    Returns:
        Groups of runs that do not overlap in time, the one that fills most of the clip first.
    """
    groups: list[list[FaceRun]] = []
    for run in sorted(runs, key=lambda run: run.first):
        fitting = [group for group in groups if group[-1].stop <= run.first and _continues(group[-1], run)]
        if fitting:
            min(fitting, key=lambda group: _distance(group[-1].seen[-1], run.seen[0])).append(run)
        else:
            groups.append([run])
    return sorted(groups, key=lambda group: -sum(run.weight for run in group))


def _distance(a: Observation, b: Observation) -> float:
    center_a, center_b = (np.array([o.box[0] + o.box[2], o.box[1] + o.box[3]]) / 2 for o in (a, b))
    return float(np.linalg.norm(center_a - center_b)) / max(a.size_px, b.size_px)


def _continues(earlier: FaceRun, later: FaceRun) -> bool:
    end, start = earlier.seen[-1], later.seen[0]
    return _distance(end, start) < 1.0 and abs(math.log(end.size_px / start.size_px)) < math.log(1.6)
