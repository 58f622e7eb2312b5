"""How good the track of a real video is, where nobody knows the truth.

    python tools/track_metrics.py video.mp4 [more videos] [--face-model builtin] [--landmarks-only]

Reprojection of the fitted landmarks alone says little (a wrong camera costs a hundredth of a pixel), so this prints:
the residual at landmarks that were left out of the fit, the agreement of the identities of two halves of the clip, how
much of the detected opening of lids and lips the fit follows, and the jitter of the rotation. Dense refinement follows
the pictures where they disagree with the detector, so both stages are shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from manvatar.benchmark.track_truth import gain, jitter_deg, openings, similarity_rms
from manvatar.cli import Positional, run
from manvatar.face_models import load
from manvatar.landmarks import detect_clip, schemes
from manvatar.threads import one_thread
from manvatar.tracking import TrackerConfig, landmarks_px
from manvatar.tracking.clip import refined_by_pictures
from manvatar.tracking.patches import cut_patches
from manvatar.tracking.points import fit_points
from manvatar.tracking.refine import refined
from manvatar.tracking.skin import Skin, skin_of
from manvatar.tracking.tracker import fit_landmarks
from manvatar.types import Clip, FaceModel, Landmarks, Track
from manvatar.video import open_clip

_FOLDS = 5  # every fifth fitted landmark is left out
_SQUARE_M = 0.015


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
    noise_deg: float  # rms, of two tracks from different evidence: see `noise_deg`
    halves_mm: float  # rms between the neutral landmarks of two halves of the clip, after a similarity
    identity_mm: float  # the same of the identity alone, without personal offsets of the landmarks
    every_other_mm: float  # between the neutral landmarks of odd and even frames, after a similarity


def metrics(clip: Clip, landmarks: Landmarks, face_model: FaceModel, dense: bool) -> Metrics:
    """Track the clip as a whole, without some landmarks, in halves, and from halves of the evidence."""
    whole = _track(clip, landmarks, face_model, dense)
    kept = fit_points(face_model, landmarks.scheme).index
    out = kept[::_FOLDS]
    without = _track(clip, landmarks, face_model, dense, tuple(out.tolist()))
    middle = clip.frame_count // 2
    rotation = whole.cam_from_head[whole.valid, :3, :3].double()
    parts = slice(0, middle), slice(middle, None), slice(0, None, 2), slice(1, None, 2)
    first, second, odd, even = [_track(clip, _some(landmarks, rows), face_model, False) for rows in parts]

    def apart_mm(one: Track, other: Track, offsets: bool = True) -> float:
        neutral = [_neutral_m(track, face_model, offsets)[kept] for track in (one, other)]
        return 1000 * similarity_rms(*neutral)

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
        noise_deg=noise_deg(clip, landmarks, face_model, dense),
        halves_mm=apart_mm(first, second),
        identity_mm=apart_mm(first, second, offsets=False),
        every_other_mm=apart_mm(odd, even),
    )


def _track(
    clip: Clip, landmarks: Landmarks, face_model: FaceModel, dense: bool, leave_out: tuple[int, ...] = ()
) -> Track:
    fitted = fit_landmarks(landmarks, face_model, clip.size_px, clip.frame_rate_hz, leave_out=leave_out)
    return (refined_by_pictures(clip, fitted, show_progress=False) if dense else fitted).track()


def noise_deg(clip: Clip, landmarks: Landmarks, face_model: FaceModel, dense: bool) -> float:
    """Noise of the rotation from frame to frame, each axis: what two tracks from different evidence do not share.

    One sees every other landmark and the black squares of a chessboard on the skin, the other the rest, each worth
    twice as much, so that the priors weigh as they do in the whole track. Second differences of the difference of their
    rotations, over sqrt(6); half of that, because the whole track is as good as their mean. Motion cancels; so does
    what a detector or the light does to all of the face at once.
    """
    base = TrackerConfig()
    config = replace(base, landmark_sd_iod=base.landmark_sd_iod / 2**0.5, dense_strength=2 * base.dense_strength)
    kept = fit_points(face_model, landmarks.scheme, skin_weight=base.skin_weight).index
    rotations, valid = [], torch.ones(clip.frame_count, dtype=torch.bool)
    for color in (0, 1):
        fitted = fit_landmarks(
            landmarks,
            face_model,
            clip.size_px,
            clip.frame_rate_hz,
            config=config,
            leave_out=tuple(kept[1 - color :: 2].tolist()),
        )
        if dense:
            skin = skin_of(face_model, fitted.identity(), config.dense_points)
            square = (skin.points_m[:, :2] / _SQUARE_M).floor().long().sum(1) % 2 == color
            skin = Skin(skin.points_m[square], skin.normals[square], skin.expression_basis_m[:, square].contiguous())
            patches = cut_patches(clip, fitted.track(), skin.points_m)
            fitted = fitted.refined_to(refined(fitted.fit, fitted.state, patches, skin))
        track = fitted.track()
        rotations.append(track.cam_from_head[:, :3, :3].double())
        valid &= track.valid
    return jitter_deg((rotations[0] @ rotations[1].transpose(1, 2))[valid]) / 2


def _residual(track: Track, face_model: FaceModel, landmarks: Landmarks, points: Tensor) -> float:
    corners = (33, 263) if landmarks.scheme == "mediapipe478" else (36, 45)
    detected, found = landmarks.points_px[track.valid], landmarks_px(track, face_model)[track.valid]
    # Turned to the front: the largest distance the corners have in the clip.
    unit = (detected[:, corners[0]] - detected[:, corners[1]]).norm(dim=-1).quantile(0.95)
    return float((detected - found)[:, points].norm(dim=-1).mean() / unit)


def _some(landmarks: Landmarks, rows: slice) -> Landmarks:
    return Landmarks(landmarks.points_px[rows], landmarks.confidence[rows], landmarks.detected[rows], landmarks.scheme)


def _neutral_m(track: Track, face_model: FaceModel, offsets: bool) -> Float[Tensor, "landmarks 3"]:
    mean, identity, _ = (x.double() for x in face_model.landmark_bases(track.landmark_scheme))
    person = mean + torch.einsum("i,inc->nc", track.identity.double(), identity)
    return person + track.landmark_offsets_m.double() if offsets else person


def _pairs(landmarks: Landmarks) -> tuple[tuple, tuple]:
    if landmarks.scheme == "mediapipe478":
        return schemes.MEDIAPIPE_EYELID_PAIRS, schemes.MEDIAPIPE_LIP_PAIRS
    return schemes.IBUG68_EYELID_PAIRS, schemes.IBUG68_LIP_PAIRS


def lines(videos: list[Path], face_model: str, landmarks_only: bool) -> Iterator[str]:
    """The table, a line at a time."""
    titles = ("left out", 9), ("fitted", 8), ("halves mm", 9), ("identity", 8), ("every other", 11)
    titles += ("lids", 6), ("lips", 6), ("jitter", 7), ("typical", 7), ("noise", 7), ("lost", 5)
    yield f"{'':34} " + " ".join(title.rjust(width) for title, width in titles)
    model = load(face_model)
    for video in videos:
        clip = open_clip(video)
        with one_thread():
            landmarks = detect_clip(clip).landmarks
        for dense in [False] if landmarks_only else [False, True]:
            m = metrics(clip, landmarks, model, dense)
            label = f"{video.stem[:24]}, {'refined' if dense else 'landmarks'}"
            yield (
                f"{label:34} {m.left_out:9.2%} {m.fitted:8.2%} {m.halves_mm:9.2f} {m.identity_mm:8.2f} "
                f"{m.every_other_mm:11.2f} {m.lids:6.2f} {m.lips:6.2f} {m.jitter_deg:7.3f} "
                f"{m.typical_jitter_deg:7.3f} {m.noise_deg:7.3f} {m.lost:5}"
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
