"""``python -m manvatar.track``: camera, head pose and expression for each frame of a video."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from manvatar.cli import Output, Positional, run
from manvatar.face_models import load
from manvatar.files import make_folder
from manvatar.interop import pytorch3d
from manvatar.progress import advancing, frames_bar
from manvatar.tracking import TrackerConfig, save_track, track_clip
from manvatar.types import Track
from manvatar.video import open_clip


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
    report: Path | None = None,
    rasteriser: Literal["native", "pytorch3d"] = "native",
    arkit: Path | None = None,
    no_eye_channels: bool = False,
    start: float = 0.0,
    end: float | None = None,
) -> None:
    """Camera, head pose and expression for each frame of a video.

    Args:
        video: the video; one person's face should be visible in most of it.
        out: the track to write (.safetensors).
        face_model: builtin, or the file or folder of a face model.
        landmarks: auto, face-alignment, the folder of OpenSeeFace's networks, or a file of landmarks.
        focal_px: focal length of the camera in pixels, where it is known.
        overlay: also write a video with mesh, landmarks, axes and residual drawn over the frames, and the report.
        report: a picture (.png) that shows whether to trust the track; beside the overlay where no name is given.
        rasteriser: what draws the mesh of the overlay: this library's own op, or PyTorch3D's where it is installed.
        arkit: also write the expressions as Apple's 52 blendshapes, a CSV such as Live Link Face writes.
        no_eye_channels: leave out the coefficients for lids and gaze that follow those of the face model.
        start: where in the video to begin, seconds.
        end: where to stop, seconds; default: its end.
    """
    clip = open_clip(video, start, end)
    if report is None and overlay is not None:
        report = overlay.with_name(f"{overlay.stem}_report.png")
    for path in (out, overlay, report, arkit):
        if path is not None:  # found out now, not after minutes of work
            make_folder(path.parent)
    if rasteriser == "pytorch3d":
        pytorch3d.require()
    model = load(face_model)
    config = TrackerConfig(eye_channels=not no_eye_channels)
    result = track_clip(clip, model, landmarks=landmarks, focal_px=focal_px, config=config)
    save_track(result.track, out)
    print(f"{out}: {summary(result.track)}")
    if report is not None:
        from manvatar.tracking.report_picture import write_report

        print(f"{report}: {write_report(report, result.track, model)}")
    if arkit is not None:
        from manvatar.driving.livelink import write_recording

        lost = write_recording(arkit, result.track, model)
        print(f"{arkit}: ARKit blendshapes, which show all but {100 * lost:.0f} % of the face's motion")
    if overlay is not None:
        from manvatar.tracking.overlay import write_overlay

        with frames_bar("overlay", clip.frame_count) as bar:
            draw = pytorch3d.rasterize if rasteriser == "pytorch3d" else None
            write_overlay(overlay, clip, result.track, result.detection.landmarks, model, advancing(bar), draw)
        print(f"{overlay}: mesh blue, detected landmarks green, fitted ones red")


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run(track, argv)


if __name__ == "__main__":
    raise SystemExit(main())
