"""How good the track of a real video is, where nobody knows the truth.

    python tools/track_metrics.py video.mp4 [more videos] [--face-model builtin] [--landmarks-only]

Reprojection of the fitted landmarks alone says little (a wrong camera costs a hundredth of a pixel), so this prints:
the residual at landmarks that were left out of the fit, the agreement of the identities of two halves of the clip, how
much of the detected opening of lids and lips the fit follows, and the jitter of the rotation. Dense refinement follows
the pictures where they disagree with the detector, so both stages are shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from manvatar.benchmark.track_truth import gain, jitter_deg, openings, similarity_rms
from manvatar.cli import Positional, run
from manvatar.face_models import load
from manvatar.landmarks import detect_clip, schemes
from manvatar.threads import one_thread
from manvatar.tracking import landmarks_px
from manvatar.tracking.clip import refined_by_pictures
from manvatar.tracking.points import fit_points
from manvatar.tracking.tracker import fit_landmarks
from manvatar.types import Clip, FaceModel, Landmarks, Track
from manvatar.video import open_clip

_FOLDS = 5  # every fifth fitted landmark is left out


@dataclass(frozen=True)
class Metrics:
    """One row of the table."""

    left_out: float  # mean residual at left-out landmarks over the distance of the outer eye corners
    fitted: float  # the same at the fitted ones
    lids: float  # slope of fitted over detected openings
    lips: float
    jitter_deg: float  # rms, which fast nods raise as noise does
    typical_jitter_deg: float  # from the median, which they do not
    lost: int
    halves_mm: float  # rms between the neutral landmarks of two halves of the clip, after a similarity


def metrics(clip: Clip, landmarks: Landmarks, face_model: FaceModel, dense: bool) -> Metrics:
    """Track the clip three times: whole, without some landmarks, and in halves."""
    whole = _track(clip, landmarks, face_model, dense)
    kept = fit_points(face_model, landmarks.scheme).index
    out = kept[::_FOLDS]
    without = _track(clip, landmarks, face_model, dense, tuple(out.tolist()))
    middle = clip.frame_count // 2
    rotation = whole.cam_from_head[whole.valid, :3, :3].double()
    halves = [
        _track(clip, _some(landmarks, rows), face_model, False)
        for rows in (slice(0, middle), slice(middle, clip.frame_count))
    ]
    neutral = [_neutral_m(half, face_model)[kept] for half in halves]
    fitted_px, valid = landmarks_px(whole, face_model), whole.valid
    lids, lips = _pairs(landmarks)
    return Metrics(
        left_out=_residual(without, face_model, landmarks, out),
        fitted=_residual(whole, face_model, landmarks, kept),
        lids=gain(openings(fitted_px, lids)[valid], openings(landmarks.points_px, lids)[valid]),
        lips=gain(openings(fitted_px, lips)[valid], openings(landmarks.points_px, lips)[valid]),
        jitter_deg=jitter_deg(rotation),
        typical_jitter_deg=jitter_deg(rotation, typical=True),
        lost=int((landmarks.detected & ~valid).sum()),
        halves_mm=1000 * similarity_rms(*neutral),
    )


def _track(
    clip: Clip, landmarks: Landmarks, face_model: FaceModel, dense: bool, leave_out: tuple[int, ...] = ()
) -> Track:
    fitted = fit_landmarks(landmarks, face_model, clip.size_px, clip.frame_rate_hz, leave_out=leave_out)
    return (refined_by_pictures(clip, fitted, show_progress=False) if dense else fitted).track()


def _residual(track: Track, face_model: FaceModel, landmarks: Landmarks, points: Tensor) -> float:
    corners = (33, 263) if landmarks.scheme == "mediapipe478" else (36, 45)
    detected, found = landmarks.points_px[track.valid], landmarks_px(track, face_model)[track.valid]
    # Turned to the front: the largest distance the corners have in the clip.
    unit = (detected[:, corners[0]] - detected[:, corners[1]]).norm(dim=-1).quantile(0.95)
    return float((detected - found)[:, points].norm(dim=-1).mean() / unit)


def _some(landmarks: Landmarks, rows: slice) -> Landmarks:
    return Landmarks(landmarks.points_px[rows], landmarks.confidence[rows], landmarks.detected[rows], landmarks.scheme)


def _neutral_m(track: Track, face_model: FaceModel) -> Float[Tensor, "landmarks 3"]:
    mean, identity, _ = (x.double() for x in face_model.landmark_bases(track.landmark_scheme))
    return mean + torch.einsum("i,inc->nc", track.identity.double(), identity) + track.landmark_offsets_m.double()


def _pairs(landmarks: Landmarks) -> tuple[tuple, tuple]:
    if landmarks.scheme == "mediapipe478":
        return schemes.MEDIAPIPE_EYELID_PAIRS, schemes.MEDIAPIPE_LIP_PAIRS
    return schemes.IBUG68_EYELID_PAIRS, schemes.IBUG68_LIP_PAIRS


def lines(videos: list[Path], face_model: str, landmarks_only: bool) -> Iterator[str]:
    """The table, a line at a time."""
    titles = ("left out", 9), ("fitted", 8), ("halves mm", 9), ("lids", 6), ("lips", 6), ("jitter", 7), ("typical", 7)
    yield f"{'':34} " + " ".join(title.rjust(width) for title, width in (*titles, ("lost", 5)))
    model = load(face_model)
    for video in videos:
        clip = open_clip(video)
        with one_thread():
            landmarks = detect_clip(clip).landmarks
        for refined in [False] if landmarks_only else [False, True]:
            m = metrics(clip, landmarks, model, refined)
            label = f"{video.stem[:24]}, {'refined' if refined else 'landmarks'}"
            yield (
                f"{label:34} {m.left_out:9.2%} {m.fitted:8.2%} {m.halves_mm:9.2f} {m.lids:6.2f} {m.lips:6.2f} "
                f"{m.jitter_deg:7.3f} {m.typical_jitter_deg:7.3f} {m.lost:5}"
            )


def table(videos: Positional[list[Path]], face_model: str = "builtin", landmarks_only: bool = False) -> None:
    """Print the metrics of the tracks of real videos.

    Args:
        videos: each with one person's face in most of it.
        face_model: builtin, or the file or folder of a face model.
        landmarks_only: leave out the rows with dense refinement.
    """
    for line in lines(videos, face_model, landmarks_only):
        print(line, flush=True)


if __name__ == "__main__":
    raise SystemExit(run(table))
