"""A corpus from videos, with our own stages: landmarks, a crop that stands still, mattes."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from manvatar.baselines.corpus.folders import KINDS
from manvatar.baselines.photo import Crop, MovingMatte
from manvatar.errors import UserError
from manvatar.files import make_folder
from manvatar.landmarks import as_ibug68, detect_clip
from manvatar.progress import advancing, frames_bar
from manvatar.threads import one_thread
from manvatar.types import Landmarks
from manvatar.video import frames, open_clip

logger = logging.getLogger(__name__)

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
_SMALLEST_PX = 64  # of a crop; less shows no face
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class Prepared:
    """What became of the videos."""

    videos: int
    frames: int
    skipped: tuple[str, ...]  # one sentence each


def prepare(
    videos: Path,
    out: Path,
    *,
    split: str = "train",
    size_px: int = 256,
    every: int = 1,
    landmarks: str = "auto",
    show_progress: bool = True,
) -> Prepared:
    """Add videos to the corpus ``out``. A video that is there already is left as it is.

    Args:
        videos: a video, or a folder with videos in PERSON/VIDEO/SEQUENCE.mp4; with fewer folders, a name stands for
            what is missing.
        every: keep every so many frames.

    Raises:
        UserError: there is no video, or none shows a face.
    """
    if videos.is_dir():
        found = sorted(path for path in videos.rglob("*") if path.suffix.lower() in SUFFIXES)
    else:
        found = [videos] if videos.is_file() else []
    if not found:
        raise UserError(f"{videos} holds no video ({', '.join(SUFFIXES)}); give a video or a folder with some")
    if every < 1:
        raise UserError(f"--every {every} is not possible; give 1 or more")
    done, count, skipped = 0, 0, []
    for path in found:
        name = sequence_name(path.relative_to(videos) if videos.is_dir() else Path(path.name))
        target = out / "imgs" / split / name
        if target.is_dir():
            done, count = done + 1, count + len(list(target.iterdir()))
            continue
        try:
            count += _prepare_one(path, out, Path(split) / name, size_px, every, landmarks, show_progress)
            done += 1
        except UserError as error:
            skipped.append(f"{path.name}: {error}")
            logger.warning("%s is left out: %s", path.name, error)
    if not done:
        raise UserError(f"no video of {videos} could be used; the first: {skipped[0]}")
    return Prepared(done, count, tuple(skipped))


def sequence_name(path: Path) -> Path:
    """PERSON/VIDEO/SEQUENCE of a file below the folder of videos."""
    *folders, last = path.with_suffix("").parts
    if not folders:
        return Path(last, last, "00000")
    if len(folders) == 1:
        return Path(folders[0], last, "00000")
    return Path("_".join(folders[:-1]), folders[-1], last)


def still_crop(points_px: Float[Tensor, "frames 68 2"]) -> Crop:
    """One square for a whole clip: as large as for a single frame, and as much larger as the face wanders."""
    crops = [Crop.around(points) for points in points_px]
    sides = torch.tensor([crop.side_px for crop in crops]).float()
    centres = torch.tensor([[crop.left_px + crop.side_px / 2, crop.top_px + crop.side_px / 2] for crop in crops])
    low, high = torch.quantile(centres, 0.02, 0), torch.quantile(centres, 0.98, 0)
    side = int(sides.median() + (high - low).amax())
    left, top = ((low + high) / 2 - side / 2).round().int().tolist()
    return Crop(left, top, side)


def _prepare_one(
    path: Path, out: Path, name: Path, size_px: int, every: int, landmarks: str, show_progress: bool
) -> int:
    """Frames of one video; their folder of images appears when all is done."""
    clip = open_clip(path)
    with one_thread(), frames_bar(path.name, clip.frame_count, show_progress) as bar:
        found: Landmarks = as_ibug68(detect_clip(clip, landmarks, progress=advancing(bar)).landmarks)
    usable = found.detected & torch.isfinite(found.points_px).all(-1).all(-1)
    if not usable.any():
        raise UserError("no face was found")
    crop = still_crop(found.points_px[usable])
    if crop.side_px < _SMALLEST_PX:
        raise UserError(f"the face is too small: its crop has {crop.side_px} pixels, and {_SMALLEST_PX} are needed")
    folders = {kind: make_folder(out / kind / name) for kind in KINDS if kind != "imgs"}
    folders["imgs"] = out / "imgs" / name.parent / f".{name.name}.part"
    shutil.rmtree(folders["imgs"], ignore_errors=True)
    make_folder(folders["imgs"])
    matte = MovingMatte(crop)
    points = crop.keypoints(found.points_px).reshape(-1, 68, 2)
    kept = 0
    for frame in frames(clip):
        alpha = matte(frame.image, size_px)  # of every frame: it is steadied over time
        if frame.index % every or not usable[frame.index]:
            continue
        files = {kind: folder / f"{frame.index:06d}{KINDS[kind]}" for kind, folder in folders.items()}
        crop.cut(Image.fromarray(frame.image.numpy()), size_px).save(files["imgs"], quality=_JPEG_QUALITY)
        Image.fromarray((alpha * 255).round().byte().numpy()).save(files["segs"])
        np.save(files["keypoints"], ((points[frame.index] + 1) / 2 * size_px).numpy().astype(np.float32))
        kept += 1
    folders["imgs"].rename(out / "imgs" / name)
    return kept
