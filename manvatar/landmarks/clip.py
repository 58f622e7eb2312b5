"""The landmarks of a whole clip."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from manvatar.errors import UserError
from manvatar.landmarks.detector import LandmarkDetector, MediaPipeDetector, Observation, make_detector, overlap
from manvatar.landmarks.from_file import load_landmarks
from manvatar.landmarks.tracks import FaceFollower, FaceRun, follow, people
from manvatar.types import LANDMARK_COUNT, Clip, Landmarks
from manvatar.video import DuplicateFinder, ahead, frames, key_frames

logger = logging.getLogger(__name__)

BACKENDS = ("auto", "mediapipe", "face-alignment", "openseeface")
Progress = Callable[[int, int], None]  # (frames done, frames in all)

_WORKING_PX = 1280.0  # longer side of the images that are looked at, unless the face is small in them
_FACE_PX = 200  # a face is looked at no smaller than this where the clip has the detail
_SHORT = 200  # frames for which a second detector is not worth its start
_WARM_UP = 16  # frames after which a face that was found afresh is where one that was followed would be
_AHEAD = 16  # frames that one part may be ahead of the other
_REWIND_BYTES = 192 << 20  # decoded frames kept while going backward


@dataclass(frozen=True)
class Detection:
    """What one pass over a clip found."""

    landmarks: Landmarks
    duplicate: Bool[Tensor, "frames"]  # repeats the frame before it
    notes: tuple[str, ...]  # what the user should know: other people, frames without a face, damage


def detect_clip(
    clip: Clip,
    backend: str | Path = "auto",
    *,
    weights: str | Path | None = None,
    progress: Progress | None = None,
) -> Detection:
    """Find one person's face in every frame of a clip, and the frames that repeat their predecessor.

    Faces are followed forward from wherever they are first seen; then the chosen one is followed backward into the
    frames before and between, where it may be too small or too turned to be found afresh. Of several people the one
    whose face fills most of the clip (size times duration) is chosen, and ``notes`` says so.

    Args:
        clip: from ``open_clip``.
        backend: ``auto`` (= ``mediapipe``, 478 points), ``mediapipe``, ``face-alignment`` (68 points), the folder with
            the networks of OpenSeeFace (68 points), or a file with landmarks (``manvatar.landmarks.from_file``).
        weights: folder with the networks of ``face-alignment``; None = that library's own cache.
        progress: called after every frame.

    Returns:
        Landmarks in pixels of the clip at its full size, and the rest of :class:`Detection`. Has as many frames as the
        clip says, also when a damaged file gives fewer; those hold no face.

    Raises:
        UserError: no face anywhere in the clip, or what the backend needs is missing.
    """
    if str(backend) not in BACKENDS and not Path(backend).is_dir():
        landmarks = load_landmarks(backend, clip.frame_count)
        finder = DuplicateFinder()
        for frame in _reported(frames(clip, size_px=_scaled(clip, 640.0), accurate=False), clip, progress):
            finder.add(frame.image)
        return Detection(landmarks, _padded(finder, clip), _coverage_notes(landmarks))
    detector = make_detector(str(backend), weights)
    size_px = _working_size(clip, detector)
    parts = [_Part(clip, first, stop, size_px) for first, stop in _cut_in_two(clip, detector)]
    decoded = _look_at(parts, detector, lambda: make_detector(str(backend), weights), progress)
    finder = parts[0].finder
    for part in parts[1:]:
        finder.join(part.finder, part.first)
    groups = people([run for part in parts for run in part.runs])
    if not groups:
        raise UserError(
            f"no face was found in any frame of {clip.path}; the face should be upright, lit, "
            "and at least about 5 % of the picture's height"
        )
    chosen, others = groups[0], groups[1:]
    _fill_backward(clip, size_px, detector, chosen, [run for group in others for run in group])
    landmarks = _landmarks(chosen, clip, size_px, detector)
    notes = _people_notes(clip, chosen, others, size_px) + _coverage_notes(landmarks)
    if decoded < clip.frame_count:
        notes += (f"the file is damaged: {decoded} of {clip.frame_count} frames decoded",)
    for note in notes:
        logger.warning("%s: %s", clip.path.name, note)
    return Detection(landmarks, _padded(finder, clip), notes)


@dataclass
class _Part:
    """Frames ``first`` to ``stop`` of a clip, looked at in order."""

    clip: Clip
    first: int
    stop: int
    size_px: tuple[int, int]
    finder: DuplicateFinder = field(default_factory=DuplicateFinder)
    runs: list[FaceRun] = field(default_factory=list)

    def look_at(self, make: Callable[[], LandmarkDetector]) -> Generator[int]:
        """Find faces and repeated frames; yields the number of every frame."""
        follower, begin = FaceFollower(make()), max(self.first - _WARM_UP, 0)
        for frame in frames(self.clip, begin, self.stop, size_px=self.size_px, accurate=False):
            if frame.index >= self.first - 1:  # the finder compares with the frame before
                self.finder.add(frame.image)
            follower.add(frame.index, frame.image)
            if frame.index >= self.first:
                yield frame.index
        self.runs = [run.since(self.first) for run in follower.runs() if run.stop > self.first]


def _cut_in_two(clip: Clip, detector: LandmarkDetector) -> list[tuple[int, int]]:
    """The clip as two parts to look at side by side, or as one where that would not be worth it."""
    count = clip.frame_count
    if count >= _SHORT and isinstance(detector, MediaPipeDetector):
        # Decoding the second part begins at a key frame.
        middle = [number for number in key_frames(clip) if 0.3 * count < number < 0.7 * count]
        if middle:
            cut = min(middle, key=lambda number: abs(number - count / 2)) + _WARM_UP
            return [(0, cut), (cut, count)]
    return [(0, count)]


def _look_at(
    parts: list[_Part], detector: LandmarkDetector, another: Callable[[], LandmarkDetector], progress: Progress | None
) -> int:
    """Look at the first part here and at others in threads of their own; returns how many frames there were."""
    done = 0
    first = parts[0].look_at(lambda: detector)
    others = [ahead(part.look_at(another), _AHEAD) for part in parts[1:]]
    for numbers in itertools.zip_longest(first, *others):
        done += sum(number is not None for number in numbers)
        if progress is not None:
            progress(done, parts[0].clip.frame_count)
    return done


def _reported(decoded: Iterator, clip: Clip, progress: Progress | None) -> Iterator:
    for done, frame in enumerate(decoded, 1):
        yield frame
        if progress is not None:
            progress(done, clip.frame_count)


def _padded(finder: DuplicateFinder, clip: Clip) -> Tensor:
    result = torch.zeros(clip.frame_count, dtype=torch.bool)
    found = finder.duplicate()
    result[: len(found)] = found
    return result


def _scaled(clip: Clip, longer_px: float) -> tuple[int, int]:
    scale = min(1.0, longer_px / max(clip.size_px))
    return tuple(max(1, round(length * scale)) for length in clip.size_px)


def _working_size(clip: Clip, detector: LandmarkDetector) -> tuple[int, int]:
    """The size to decode at: small, because that costs less, but not so small that the face loses detail."""
    if max(clip.size_px) <= _WORKING_PX:
        return clip.size_px
    small = _scaled(clip, _WORKING_PX)
    for index in sorted({0, clip.frame_count // 2, clip.frame_count - 1}):
        for frame in frames(clip, index, index + 1, size_px=small, accurate=False):
            faces = detector.discover(frame.image, thorough=True)
            if faces:
                return _scaled(clip, _WORKING_PX * max(1.0, _FACE_PX / faces[0].size_px))
    return clip.size_px


def _fill_backward(
    clip: Clip, size_px: tuple[int, int], detector: LandmarkDetector, chosen: list[FaceRun], others: list[FaceRun]
) -> None:
    """Lengthen every run of the chosen person toward the frames before it, until the face is lost there too."""
    at_once = max(4, min(64, _REWIND_BYTES // (size_px[0] * size_px[1] * 3)))
    previous_stop = 0
    for run in chosen:
        lost = False
        while run.first > previous_stop and not lost:
            begin = max(previous_stop, run.first - at_once)
            images = [frame.image for frame in frames(clip, begin, run.first, size_px=size_px, accurate=False)]
            for index, image in zip(range(begin + len(images) - 1, begin - 1, -1), reversed(images), strict=True):
                now = follow(detector, image, run.seen[0])
                if now is None or any(_shows(other, index, now) for other in others):
                    lost = True
                    break
                run.first = index
                run.seen.insert(0, now)
            lost = lost or not images
        previous_stop = run.stop


def _shows(run: FaceRun, index: int, face: Observation) -> bool:
    return run.first <= index < run.stop and overlap(run.seen[index - run.first], face) > 0.3


def _landmarks(runs: list[FaceRun], clip: Clip, size_px: tuple[int, int], detector: LandmarkDetector) -> Landmarks:
    shape = (clip.frame_count, LANDMARK_COUNT[detector.scheme])
    points = np.full((*shape, 2), np.nan, np.float32)
    confidence = np.zeros(shape, np.float32)
    detected = np.zeros(clip.frame_count, bool)
    scale = np.array(clip.size_px, np.float32) / np.array(size_px, np.float32)
    for run in runs:
        points[run.first : run.stop] = np.stack([face.points_px for face in run.seen]) * scale
        confidence[run.first : run.stop] = np.stack([face.confidence for face in run.seen])
        detected[run.first : run.stop] = True
    return Landmarks(
        torch.from_numpy(points), torch.from_numpy(confidence), torch.from_numpy(detected), detector.scheme
    )


def _coverage_notes(landmarks: Landmarks) -> tuple[str, ...]:
    seen, count = int(landmarks.detected.sum()), len(landmarks.detected)
    return () if seen == count else (f"the face is visible in {seen} of {count} frames; the others are left out",)


def _people_notes(
    clip: Clip, chosen: list[FaceRun], others: list[list[FaceRun]], size_px: tuple[int, int]
) -> tuple[str, ...]:
    """One note when somebody else is there for a quarter of a second or longer."""
    shortest = max(3, round(clip.frame_rate_hz / 4))
    lengths = [sum(len(run.seen) for run in group) for group in others]
    count = sum(length >= shortest for length in lengths)
    if not count:
        return ()
    middle = chosen[0].seen[len(chosen[0].seen) // 2].box
    scale = clip.size_px[0] / size_px[0]
    x, y = (round((middle[i] + middle[i + 2]) / 2 * scale) for i in (0, 1))
    return (f"{count + 1} faces are in the clip; the one around pixel ({x}, {y}), the largest steady one, is followed",)
