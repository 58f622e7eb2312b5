"""From a clip to its track: landmarks, then the fit, with progress bars."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from manvatar.errors import UserError
from manvatar.landmarks import Detection, detect_clip
from manvatar.progress import advancing, frames_bar
from manvatar.threads import one_thread
from manvatar.tracking.config import TrackerConfig
from manvatar.tracking.gaze import with_eye_channels
from manvatar.tracking.patches import cut_patches
from manvatar.tracking.refine import refined
from manvatar.tracking.skin import skin_of
from manvatar.tracking.tracker import Fitted, fit_landmarks
from manvatar.types import Clip, FaceModel, Track


@dataclass(frozen=True)
class TrackedClip:
    """A track, and what was detected to make it."""

    track: Track
    detection: Detection


def track_clip(
    clip: Clip,
    face_model: FaceModel,
    *,
    landmarks: str | Path = "auto",
    focal_px: float | None = None,
    config: TrackerConfig | None = None,
    show_progress: bool = True,
) -> TrackedClip:
    """Detect landmarks in a clip and fit the face model to them.

    Args:
        clip: from ``manvatar.video.open_clip``.
        face_model: from ``manvatar.face_models.load``.
        landmarks: ``auto``, ``mediapipe``, ``face-alignment``, the folder of OpenSeeFace's networks, or a file of
            landmarks.
        focal_px: the camera's focal length in pixels of the clip, where it is known.
        show_progress: progress bars on standard error.

    Raises:
        UserError: no face in the clip, the face could not be tracked, or what the backend needs is missing.
    """
    if focal_px is not None and not 0 < focal_px < float("inf"):
        raise UserError(f"a focal length of {focal_px} px is not possible; give a positive number of pixels")
    with one_thread(), frames_bar("landmarks", clip.frame_count, show_progress) as bar:
        detection = detect_clip(clip, landmarks, progress=advancing(bar))
    with _percent("tracking", show_progress) as bar:
        fitted = fit_landmarks(
            detection.landmarks,
            face_model,
            clip.size_px,
            clip.frame_rate_hz,
            focal_px=focal_px,
            config=config,
            progress=lambda share, _: bar.update(round(100 * share) - bar.n),
        )
    if fitted.fit.config.dense:
        fitted = refined_by_pictures(clip, fitted, show_progress)
    track = fitted.track()
    if fitted.fit.config.eye_channels:
        track = with_eye_channels(track, fitted.landmarks, face_model)
    return TrackedClip(track, detection)


def refined_by_pictures(clip: Clip, fitted: Fitted, show_progress: bool) -> Fitted:
    """The fit after a second look at the clip, at all of the skin."""
    config = fitted.fit.config
    skin = skin_of(fitted.face_model, fitted.identity(), config.dense_points)
    with frames_bar("patches", clip.frame_count, show_progress) as bar:
        patches = cut_patches(clip, fitted.track(), skin.points_m, progress=advancing(bar))
    with _percent("refining", show_progress) as bar:
        state = refined(
            fitted.fit, fitted.state, patches, skin, progress=lambda share: bar.update(round(100 * share) - bar.n)
        )
    return fitted.refined_to(state)


def _percent(what: str, show_progress: bool) -> tqdm:
    return tqdm(total=100, desc=what, unit="%", disable=not show_progress)
