"""Scoring a renderer on the held-out frames of a dataset, and the file that says how good it was (DESIGN 10)."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from manvatar.files import replacing
from manvatar.metrics.images import LearnedDistance, RegionScore, compare, white_composite
from manvatar.metrics.regions import REGIONS, regions
from manvatar.types import Dataset

SCORES_VERSION = 1

Renderer = Callable[[int], Float[Tensor, "height width 3"]]  # dataset row -> image on white, [0, 1]


@dataclass(frozen=True)
class Scores:
    """Means over frames; PSNR is the mean of the frames' PSNR, as the field reports it."""

    frame: RegionScore  # the whole picture on white
    head: RegionScore  # pixels with matte above one half
    mouth: RegionScore  # a box around the lips
    eyes: RegionScore  # two boxes
    rows: tuple[int, ...]  # dataset rows that were scored
    frame_psnr_db: tuple[float, ...]  # of each of them, whole picture
    size_px: tuple[int, int]


@dataclass(frozen=True)
class ScoredFrame:
    """What an observer of :func:`score` sees of each frame."""

    row: int
    truth: Float[Tensor, "height width 3"]  # on white, [0, 1]
    image: Float[Tensor, "height width 3"]
    psnr_db: float  # whole picture


@dataclass(frozen=True)
class RunFacts:
    """What a run cost; None where it did not happen or was not measured."""

    track_s: float | None = None
    train_s: float | None = None
    score_s: float | None = None
    total_s: float | None = None
    peak_memory_bytes: int | None = None
    device: str | None = None
    seed: int | None = None
    preset: str | None = None
    iterations: int | None = None


def score(
    dataset: Dataset,
    renderer: Renderer,
    *,
    lpips: tuple[LearnedDistance, ...] = (),
    on_frame: Callable[[ScoredFrame], None] | None = None,
    progress: str | None = None,
) -> Scores:
    """Compare what ``renderer`` shows for the held-out rows with what the camera saw, on white.

    Args:
        renderer: dataset row -> (H, W, 3) in [0, 1] on white, of the dataset's size; values beyond are clipped.
        lpips: distances that need weights; without them their scores are None.
        on_frame: called with each frame as it is scored, in order.
        progress: label of a progress bar; None = no bar.

    Raises:
        ValueError: nothing is held out, or an image of the wrong size or with values that are not finite.
    """
    rows = dataset.held_out.tolist()
    if not rows:
        raise ValueError("score: the dataset holds no frames out")
    found: dict[str, list[RegionScore]] = {name: [] for name in REGIONS}
    for row in tqdm(rows, desc=progress, disable=progress is None, unit="frame"):
        rgba = dataset.images[row]
        truth, image = white_composite(rgba), renderer(row).detach().cpu().float().clamp(0, 1)
        here = regions(rgba[..., 3].float() / 255, dataset.landmarks_px[row])
        for name, value in compare(truth, image, here, lpips).items():
            if value is not None:
                found[name].append(value)
        if on_frame is not None:
            on_frame(ScoredFrame(row, truth, image, found["frame"][-1].psnr_db))
    means = {name: _mean(values) for name, values in found.items()}
    per_frame = tuple(value.psnr_db for value in found["frame"])
    return Scores(**means, rows=tuple(rows), frame_psnr_db=per_frame, size_px=dataset.camera.size_px)


def scores_table(scores: Scores, nearest: Scores | None, facts: RunFacts) -> dict[str, Any]:
    """The content of ``scores.json``; plain values, None for what was not measured, never NaN."""
    return {
        "version": SCORES_VERSION,
        **_regions_table(scores),
        "nearest_frame": None if nearest is None else _regions_table(nearest),
        "frames": len(scores.rows),
        "size_px": list(scores.size_px),
        "seconds": {"track": facts.track_s, "train": facts.train_s, "score": facts.score_s, "total": facts.total_s},
        "peak_memory_bytes": facts.peak_memory_bytes,
        "device": facts.device,
        "seed": facts.seed,
        "preset": facts.preset,
        "iterations": facts.iterations,
    }


def write_scores(path: str | Path, scores: Scores, nearest: Scores | None, facts: RunFacts) -> None:
    """Write ``scores.json``, atomically. Raises ``UserError`` where it cannot be written."""
    text = json.dumps(scores_table(scores, nearest, facts), indent=1, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n")


def _regions_table(scores: Scores) -> dict[str, Any]:
    return {name: dataclasses.asdict(getattr(scores, name)) for name in REGIONS}


def _mean(values: list[RegionScore]) -> RegionScore:
    """The mean of each number over the frames that have it."""
    means: dict[str, float | None] = {}
    for entry in dataclasses.fields(RegionScore):
        known = [v for v in (getattr(value, entry.name) for value in values) if v is not None]
        means[entry.name] = math.fsum(known) / len(known) if known else None
    return RegionScore(**means)
