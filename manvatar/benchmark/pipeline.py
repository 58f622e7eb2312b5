"""Training and rendering as a user meets them, on a short demo clip that goes through the real pipeline."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from manvatar.avatars import Avatar, make_header
from manvatar.benchmark.machine import wait_for
from manvatar.dataset import DatasetConfig, build_dataset
from manvatar.face_models import load
from manvatar.fields import make_field
from manvatar.synthesis import make_clip
from manvatar.tracking import track_clip
from manvatar.training import Trainer, load_preset
from manvatar.types import Dataset
from manvatar.video import open_clip

_FRAMES, _WARM_UP = 40, 100


@dataclass(frozen=True)
class PipelineRates:
    """What a user waits for."""

    track_frames_per_s: float  # landmarks, fit and dense refinement of a 512 px video
    matte_frames_per_s: float  # crops and mattes
    train_iterations_per_s: float  # at 256 px, once the empty space is known
    render_256_frames_per_s: float
    render_512_frames_per_s: float


def measure(preset_name: str, iterations: int, device: str) -> PipelineRates:
    """Make a clip, an avatar of it in ``iterations`` iterations, and render that.

    Args:
        iterations: at least 200; the first 100 are not counted.
        device: where the avatar is trained and rendered; tracking and mattes run on the CPU.
    """
    with tempfile.TemporaryDirectory(prefix="manvatar-benchmark-") as folder:
        work = Path(folder)
        make_clip(work / "clip.mp4", frames=_FRAMES)
        clip, model = open_clip(work / "clip.mp4"), load("builtin")
        start = time.perf_counter()
        tracked = track_clip(clip, model, show_progress=False)
        middle = time.perf_counter()
        dataset = build_dataset(
            clip, tracked.track, model, tracked.detection.duplicate, work, DatasetConfig(), "benchmark"
        )
        end = time.perf_counter()
        avatar, rate = _train(dataset, tracked.track.expression_names, preset_name, iterations, device)
        return PipelineRates(
            track_frames_per_s=_FRAMES / (middle - start),
            matte_frames_per_s=_FRAMES / (end - middle),
            train_iterations_per_s=rate,
            render_256_frames_per_s=_render_rate(avatar, dataset, 256),
            render_512_frames_per_s=_render_rate(avatar, dataset, 512),
        )


def _train(
    dataset: Dataset, expression_names: tuple[str, ...], preset_name: str, iterations: int, device: str
) -> tuple[Avatar, float]:
    preset = load_preset(preset_name)
    torch.manual_seed(0)
    config = preset.field.__dict__
    field = make_field(preset.field_name, dict(config), dataset.bounds, dataset.expression.shape[1])
    training = replace(preset.training, iterations=iterations)
    trainer = Trainer(dataset, field, training, 0, torch.device(device))
    for _ in range(_WARM_UP):
        trainer.step(trainer.progress.iteration / iterations)
    wait_for(device)
    start = time.perf_counter()
    for _ in range(iterations - _WARM_UP):
        trainer.step(trainer.progress.iteration / iterations)
    wait_for(device)
    rate = (iterations - _WARM_UP) / (time.perf_counter() - start)
    header = make_header(
        dataset,
        preset=preset.name,
        field_name=preset.field_name,
        field_config=preset.field,
        march=training.march,
        occupancy_cell_m=training.occupancy_cell_m,
        face_model="builtin-1",
        expression_names=expression_names,
        clip_first_frame=0,
        training={},
        provenance={},
    )
    return Avatar(header, trainer.field, trainer.occupancy), rate


def _render_rate(avatar: Avatar, dataset: Dataset, size_px: int) -> float:
    rows = dataset.held_out.tolist() or dataset.train.tolist()
    avatar.render(dataset.expression[rows[0]], head_pose=dataset.cam_from_head[rows[0]], size_px=size_px)
    start = time.perf_counter()
    for row in rows:
        avatar.render(dataset.expression[row], head_pose=dataset.cam_from_head[row], size_px=size_px)
    return len(rows) / (time.perf_counter() - start)
