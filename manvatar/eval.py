"""``python -m manvatar.eval``: score an avatar on the frames of a video."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
import time
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from manvatar.avatars import Avatar, dataset_renderer, file_sha256
from manvatar.baselines.one_video import load_avatar
from manvatar.cli import Output, Positional, run
from manvatar.dataset import DatasetConfig, build_dataset
from manvatar.errors import UserError
from manvatar.face_models import load
from manvatar.files import make_folder
from manvatar.metrics import LearnedDistance, Report, RunFacts, write_report
from manvatar.ops import keep_freed_memory
from manvatar.progress import advancing, frames_bar
from manvatar.tracking import load_track, save_track, track_clip
from manvatar.types import Clip, Dataset, FaceModel, Track
from manvatar.video import open_clip

logger = logging.getLogger(__name__)


def evaluate(
    avatar: Positional[Path],
    video: Positional[Path],
    out: Output,
    track: Path | None = None,
    face_model: str = "builtin",
    landmarks: str = "auto",
    start: float = 0.0,
    end: float | None = None,
    frames: Literal["auto", "held-out", "all"] = "auto",
    lpips_alex: Path | None = None,
    lpips_vgg: Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Score an avatar on the frames of a video: scores.json, preview.mp4 and contact.png.

    The video is tracked, cut out and compared with what the avatar shows at the same poses and expressions.

    Args:
        avatar: the avatar file (.mav).
        video: a video of the same person; the one the avatar was made from, or another.
        out: folder for scores.json, preview.mp4, contact.png and, when the video was tracked here, track.safetensors.
        track: a track of the video made by manvatar track; without it the video is tracked.
        face_model: builtin, or the file or folder of the face model that the avatar was made with.
        landmarks: auto, face-alignment, or a file of landmarks.
        start: where in the video to begin, seconds.
        end: where to stop, seconds; default: its end.
        frames: which frames to score: held-out are those the avatar was not trained on; auto takes them on the
            avatar's own video and all frames of another one.
        lpips_alex: torchvision's AlexNet weights, for LPIPS.
        lpips_vgg: torchvision's VGG-16 weights, for LPIPS.
        device: auto takes the GPU where there is one.
    """
    begin = time.perf_counter()
    keep_freed_memory()
    loaded = load_avatar(avatar, device)
    lpips = _distances(lpips_alex, lpips_vgg)
    clip = open_clip(video, start, end)
    own = loaded.header.provenance.get("video_sha256") == file_sha256(video)
    if frames == "held-out" and not own:
        raise UserError(f"{avatar} was not made from {video}, so none of its frames were held out; use --frames all")
    model = load(face_model)
    if model.id != loaded.header.face_model:
        raise UserError(
            f"{avatar} was made with the face model {loaded.header.face_model}, not {model.id}; "
            "name that model with --face-model"
        )
    folder = make_folder(out)
    found = _for_avatar(_track(clip, model, track, landmarks, folder), loaded)
    tracked_s = time.perf_counter() - begin
    with tempfile.TemporaryDirectory(prefix=".work-", dir=folder) as work:
        dataset = _dataset(clip, found, model, Path(work), loaded)
        held_out = _held_out(loaded, clip) if own and frames != "all" else None
        dataset = _split(dataset, held_out, avatar)
        report = _score(loaded, dataset, folder, lpips, tracked_s)
    _tell(report, out, own and frames != "all")


def _distances(alex: Path | None, vgg: Path | None) -> tuple[LearnedDistance, ...]:
    found = []
    if alex is not None:
        found.append(LearnedDistance("alex", alex))
    if vgg is not None:
        found.append(LearnedDistance("vgg", vgg))
    return tuple(found)


def _track(clip: Clip, model: FaceModel, path: Path | None, landmarks: str, folder: Path) -> Track:
    """A track of the clip, read or made."""
    if path is None:
        tracked = track_clip(clip, model, landmarks=landmarks)
        for note in tracked.detection.notes:
            logger.warning("%s", note)
        save_track(tracked.track, folder / "track.safetensors")
        return tracked.track
    track = load_track(path)
    if track.frame_count != clip.frame_count or track.camera.size_px != clip.size_px:
        raise UserError(
            f"{path} tracks {track.frame_count} frames of {track.camera.size_px} pixels but {clip.path} has "
            f"{clip.frame_count} of {clip.size_px}; give the track of this video, or the same --start and --end"
        )
    if track.face_model != model.id:
        raise UserError(f"{path} was made with the face model {track.face_model}, not {model.id}; track the video anew")
    return track


def _for_avatar(track: Track, avatar: Avatar) -> Track:
    """The track with the avatar's coefficients only: an avatar may have been made without channels of lids and gaze."""
    names, wanted = track.expression_names, avatar.expression_names
    if not set(wanted) <= set(names):
        lacking = ", ".join(name for name in wanted if name not in names)
        raise UserError(f"the track lacks {lacking}, which the avatar has; track the video anew")
    return dataclasses.replace(
        track, expression=track.expression[:, [names.index(n) for n in wanted]], expression_names=wanted
    )


def _dataset(clip: Clip, track: Track, model: FaceModel, work: Path, avatar: Avatar) -> Dataset:
    """All usable frames, as training frames; repeated ones too, since nothing is trained on them."""
    duplicate = torch.zeros(clip.frame_count, dtype=torch.bool)
    config = DatasetConfig(size_px=avatar.camera.size_px[0], holdout=0.0)
    with frames_bar("mattes", clip.frame_count) as bar:
        return build_dataset(clip, track, model, duplicate, work, config, "eval", progress=advancing(bar))


def _held_out(avatar: Avatar, clip: Clip) -> Tensor:
    """The frames of the clip that the avatar did not see; its header counts them from the start of the video file."""
    return torch.tensor(avatar.header.training.get("held_out_frames", []), dtype=torch.int64) - clip.first_frame


def _split(dataset: Dataset, held_out: Tensor | None, avatar: Path) -> Dataset:
    """The dataset with the frames to score as held out, and those the rival may show as training frames.

    On another video there is no rival: its frames are all scored, and the avatar's own are not at hand.
    """
    if held_out is None:
        nothing = torch.zeros(0, dtype=torch.int64)
        return dataclasses.replace(dataset, train=nothing, held_out=dataset.train)
    hidden = torch.isin(dataset.clip_frame[dataset.train], held_out)
    if not bool(hidden.any()):
        raise UserError(f"{avatar} held out no frame of this part of the video; use --frames all to score the others")
    return dataclasses.replace(dataset, train=dataset.train[~hidden], held_out=dataset.train[hidden])


def _score(
    avatar: Avatar, dataset: Dataset, folder: Path, lpips: tuple[LearnedDistance, ...], track_s: float
) -> Report:
    training = avatar.header.training
    facts = RunFacts(
        track_s=track_s,
        device=avatar.device.type,
        seed=training.get("seed"),
        preset=avatar.header.preset,
        iterations=training.get("iterations"),
    )
    return write_report(folder, dataset, dataset_renderer(avatar, dataset), facts, lpips=lpips)


def _tell(report: Report, out: Path, held_out_only: bool) -> None:
    which = "frames the avatar was not trained on" if held_out_only else "all frames"
    print(f"{out / 'scores.json'} ({which}): {report.summary()}")


def main(argv: list[str] | None = None) -> int:
    """The command."""
    return run(evaluate, argv)


if __name__ == "__main__":
    raise SystemExit(main())
