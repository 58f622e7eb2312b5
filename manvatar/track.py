"""``python -m manvatar.track``: camera, head pose and expression for each frame of a video."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from manvatar.cli import Output, Positional, run
from manvatar.errors import UserError
from manvatar.face_models import load
from manvatar.landmarks import Detection, detect_clip
from manvatar.tracking import TrackerConfig, save_track
from manvatar.tracking import track as fit_track
from manvatar.types import Clip, FaceModel, Track
from manvatar.video import open_clip

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrackedVideo:
    """A track, and what was detected to make it."""

    track: Track
    detection: Detection


def track_video(
    clip: Clip,
    face_model: FaceModel,
    *,
    landmarks: str | Path = "auto",
    focal_px: float | None = None,
    config: TrackerConfig | None = None,
    show_progress: bool = True,
) -> TrackedVideo:
    """Detect landmarks in a clip and fit the face model to them.

    Args:
        clip: from ``manvatar.video.open_clip``.
        face_model: from ``manvatar.face_models.load``.
        landmarks: ``auto``, ``mediapipe``, ``face-alignment``, or a file of landmarks.
        focal_px: the camera's focal length in pixels of the clip, where it is known.
        show_progress: progress bars on standard error.

    Raises:
        UserError: no face in the clip, the face could not be tracked, or what the backend needs is missing.
    """
    if focal_px is not None and not 0 < focal_px < float("inf"):
        raise UserError(f"a focal length of {focal_px} px is not possible; give a positive number of pixels")
    with _bar("landmarks", clip.frame_count, show_progress) as bar:
        detection = detect_clip(clip, landmarks, progress=_advance(bar))
    with tqdm(total=100, desc="tracking", unit="%", disable=not show_progress) as bar:
        track = fit_track(
            detection.landmarks,
            face_model,
            clip.size_px,
            clip.frame_rate_hz,
            focal_px=focal_px,
            config=config,
            progress=lambda share, _: bar.update(round(100 * share) - bar.n),
        )
    return TrackedVideo(track, detection)


def summary(track: Track) -> str:
    """One line on how a track turned out."""
    valid = int(track.valid.sum())
    residual = float(track.residual_px[track.valid].median())
    focal = f"focal length {float(track.camera.focal_px[0]):.0f} px ({track.focal_source})"
    return f"{valid} of {track.frame_count} frames tracked, median residual {residual:.2f} px, {focal}"


def track(
    video: Positional[Path],
    out: Output,
    face_model: str = "builtin",
    landmarks: str = "auto",
    focal_px: float | None = None,
    overlay: Path | None = None,
    start: float = 0.0,
    end: float | None = None,
) -> None:
    """Camera, head pose and expression for each frame of a video.

    Args:
        video: the video; one person's face should be visible in most of it.
        out: the track to write (.safetensors).
        face_model: builtin, or the file or folder of a face model.
        landmarks: auto, face-alignment, or a file of landmarks.
        focal_px: focal length of the camera in pixels, where it is known.
        overlay: also write a video with mesh, landmarks, axes and residual drawn over the frames.
        start: where in the video to begin, seconds.
        end: where to stop, seconds; default: its end.
    """
    clip = open_clip(video, start, end)
    model = load(face_model)
    result = track_video(clip, model, landmarks=landmarks, focal_px=focal_px)
    save_track(result.track, out)
    print(f"{out}: {summary(result.track)}")
    if overlay is not None:
        from manvatar.tracking.overlay import write_overlay

        with _bar("overlay", clip.frame_count, True) as bar:
            write_overlay(overlay, clip, result.track, result.detection.landmarks, model, _advance(bar))
        print(f"{overlay}: mesh blue, detected landmarks green, fitted ones red")


def _bar(what: str, frames: int, shown: bool) -> tqdm:
    return tqdm(total=frames, desc=what, unit="frame", disable=not shown)


def _advance(bar: tqdm) -> Callable[[int, int], None]:
    def advance(done: int, _total: int) -> None:
        bar.update(done - bar.n)

    return advance


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run(track, argv)


if __name__ == "__main__":
    raise SystemExit(main())
