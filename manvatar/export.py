"""``python -m manvatar.export``: avatars and videos in another program's format, and its files as avatars."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

import torch

from manvatar.avatars import SUFFIX, Avatar
from manvatar.cli import Output, Positional, run
from manvatar.dataset import DatasetConfig, build_dataset
from manvatar.errors import UserError
from manvatar.exporting.avatarmav import (
    avatar_from_checkpoint,
    read_parameters,
    write_checkpoint,
    write_folder,
)
from manvatar.face_models import load
from manvatar.files import make_folder
from manvatar.progress import advancing, frames_bar
from manvatar.tracking import landmarks_head_m, load_track, track_clip
from manvatar.types import Clip, FaceModel, Track
from manvatar.video import open_clip

_SCALE = 0.1  # heads are life-size in metres there


def export(
    source: Positional[Path],
    out: Output,
    what: Literal["checkpoint", "dataset", "avatar"],
    params: Path | None = None,
    track: Path | None = None,
    face_model: str = "builtin",
    landmarks: str = "auto",
    holdout: float = 0.1,
    size: int = 512,
    start: float = 0.0,
    end: float | None = None,
) -> None:
    """Exchange with the released code of AvatarMAV.

    checkpoint: an avatar of the preset paper (.mav) as its weights (headnerf_latest).
    dataset: a video as its dataset folder, to train on with that code.
    avatar: its weights as an avatar.

    Args:
        source: an avatar (.mav), a video, or weights, by what is made of it.
        out: the file or folder to write.
        what: what to make.
        params: the dataset folder that belongs to the weights: its poses, expressions and scale.
        track: of the video, made by manvatar track or manvatar fit; without it the video is tracked.
        face_model: builtin, or the file or folder of the face model that the video is tracked with.
        landmarks: auto, face-alignment, or a file of landmarks.
        holdout: last part of the video that is left out: below 1 a fraction, otherwise a number of frames.
        size: side of the square images in pixels.
        start: where in the video to begin, seconds.
        end: where to stop, seconds; default: its end.
    """
    if what == "checkpoint":
        scale = _SCALE if params is None else float(read_parameters(params).scale.median())
        write_checkpoint(Avatar.load(source, "cpu"), out, scale)
        print(f"{out}: weights for AvatarMAV, for frames of scale {scale:.4g}")
    elif what == "avatar":
        if out.suffix != SUFFIX:
            raise UserError(f"an avatar is a {SUFFIX} file; {out} is not")
        avatar = avatar_from_checkpoint(source, None if params is None else read_parameters(params), size)
        avatar.save(out, "full")
        print(f"{out}: the avatar of {source}, with {len(avatar.expression_names)} coefficients")
    else:
        clip, model = open_clip(source, start, end), load(face_model)
        make_folder(out)  # found out now, not after minutes of work
        _write_dataset(clip, model, _track(clip, model, track, landmarks), out, DatasetConfig(size, holdout))


def _track(clip: Clip, model: FaceModel, path: Path | None, landmarks: str) -> Track:
    if path is None:
        return track_clip(clip, model, landmarks=landmarks).track
    found = load_track(path)
    if found.frame_count != clip.frame_count or found.camera.size_px != clip.size_px or found.face_model != model.id:
        raise UserError(
            f"{path} tracks {found.frame_count} frames of {found.camera.size_px} pixels with {found.face_model}, but "
            f"{clip.path} has {clip.frame_count} of {clip.size_px} and the face model is {model.id}; give the track of "
            "this video, or the same --start, --end and --face-model"
        )
    return found


def _write_dataset(clip: Clip, model: FaceModel, track: Track, out: Path, config: DatasetConfig) -> None:
    duplicate = torch.zeros(clip.frame_count, dtype=torch.bool)
    points = landmarks_head_m(track, model)
    with tempfile.TemporaryDirectory(prefix=".work-", dir=out) as work:
        with frames_bar("mattes", clip.frame_count) as bar:
            dataset = build_dataset(clip, track, model, duplicate, Path(work), config, "export", advancing(bar))
        with frames_bar("frames", len(dataset.train)) as bar:
            written = write_folder(dataset, points, out, progress=advancing(bar))
    print(
        f"{out}: {written.frames} frames of {config.size_px} x {config.size_px} pixels; AvatarMAV's camera sees the "
        f"face {float(written.residual_px.median()):.2f} px from where the video does"
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run(export, argv)


if __name__ == "__main__":
    raise SystemExit(main())
