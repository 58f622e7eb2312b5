"""From a clip to what training starts from: tracked, cut out, and kept in a work folder."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path

from manvatar.dataset import DATASET_FILES, DatasetConfig, build_dataset, load_dataset
from manvatar.errors import UserError
from manvatar.exporting.avatarmav import folder_clip, folder_track, read_folder
from manvatar.files import make_folder
from manvatar.ops import give_back_freed_memory
from manvatar.progress import advancing, frames_bar
from manvatar.tracking import TrackerConfig, load_track, save_track, track_clip
from manvatar.types import Clip, Dataset, FaceModel, Track
from manvatar.video import open_clip

logger = logging.getLogger(__name__)

TRACK, TRACK_REPORT, CHECKPOINT = "track.safetensors", "track_report.png", "checkpoint.safetensors"
_WORK_FILES = (TRACK, TRACK_REPORT, CHECKPOINT, *DATASET_FILES)


@dataclass(frozen=True)
class Preparation:
    """How a clip is tracked and cut out."""

    landmarks: str | Path
    tracker: TrackerConfig
    dataset: DatasetConfig


@dataclass(frozen=True)
class Prepared:
    """A clip that is tracked and cut out: what training starts from, whatever is trained."""

    clip: Clip
    face_model: FaceModel
    track: Track
    dataset: Dataset
    seconds: float  # that it took


def open_source(video: Path, start_s: float, end_s: float | None) -> Clip:
    """A video, or a dataset folder of AvatarMAV as one.

    Raises:
        UserError: it cannot be read, or a part of a folder is asked for.
    """
    if not (video / "params").is_dir():
        return open_clip(video, start_s, end_s)
    if start_s or end_s is not None:
        raise UserError(f"{video} is a folder of frames; --start and --end are for videos")
    return folder_clip(video)


def prepare_dataset(
    clip: Clip, model: FaceModel, work: Path, run_id: str, how: Preparation, resume: bool, show_progress: bool
) -> tuple[Dataset, float]:
    """The dataset, from an interrupted run where there is one, and the seconds that making it took.

    Args:
        work: folder that keeps the files of the dataset and the track.
        run_id: the interrupted run must have been of the same.
    """
    start = time.perf_counter()
    if resume:
        dataset = load_dataset(work, run_id) if (work / TRACK).is_file() else None
        if dataset is not None:
            load_track(work / TRACK)  # says so if it has been damaged meanwhile
            return dataset, time.perf_counter() - start
        logger.warning("%s holds no interrupted run of these settings: starting from the beginning", work)
    clear(work)
    make_folder(work)
    try:
        dataset = _made_dataset(clip, model, work, run_id, how, show_progress)
    except BaseException:
        clear(work)  # there is nothing to go on with
        raise
    return dataset, time.perf_counter() - start


def _made_dataset(
    clip: Clip, model: FaceModel, work: Path, run_id: str, how: Preparation, show_progress: bool
) -> Dataset:
    if clip.path.is_dir():
        with frames_bar("frames", clip.frame_count, show_progress) as bar:
            dataset = read_folder(clip.path, work, run_id, how.dataset.holdout, progress=advancing(bar))
        save_track(folder_track(dataset), work / TRACK)
        return dataset
    tracked = track_clip(clip, model, landmarks=how.landmarks, config=how.tracker, show_progress=show_progress)
    for note in tracked.detection.notes:
        logger.warning("%s", note)
    save_track(tracked.track, work / TRACK)
    give_back_freed_memory()
    duplicate = tracked.detection.duplicate
    with frames_bar("mattes", clip.frame_count, show_progress) as bar:
        return build_dataset(clip, tracked.track, model, duplicate, work, how.dataset, run_id, progress=advancing(bar))


def clear(work: Path) -> None:
    """Delete what a run keeps in its work folder, and nothing that somebody else has put there."""
    for leftover in [*(work / name for name in _WORK_FILES), *work.glob(".*.part*")]:
        leftover.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty
        work.rmdir()
