"""The whole way from a video to an avatar."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from manvatar.avatars import Avatar, dataset_renderer, make_header, provenance
from manvatar.baselines import one_video
from manvatar.baselines.one_video import OneVideoConfig, PortraitTrainer
from manvatar.dataset import DatasetConfig, tail_length
from manvatar.devices import pick_device
from manvatar.driving import write_novel
from manvatar.errors import UserError
from manvatar.exporting.avatarmav import folder_config
from manvatar.face_models import load
from manvatar.face_models.arkit import track_table
from manvatar.fields import FastFieldConfig, PaperFieldConfig, make_field
from manvatar.files import make_folder
from manvatar.metrics import Report, RunFacts, write_report
from manvatar.ops import give_back_freed_memory, mlp_has_bfloat16, peak_memory_bytes
from manvatar.ops.mlp_backends import require_tinycudann
from manvatar.preparation import (
    CHECKPOINT,
    TRACK,
    TRACK_REPORT,
    Preparation,
    Prepared,
    clear,
    open_source,
    prepare_dataset,
)
from manvatar.tracking import TrackerConfig, load_track
from manvatar.tracking.report_picture import write_report as write_track_report
from manvatar.training import LivePreview, Preset, Trainer, load_preset, restore_checkpoint, save_checkpoint
from manvatar.types import Clip, Dataset, Track

logger = logging.getLogger(__name__)

_CHECKPOINT_SECONDS = 30.0
_PREVIEW_SHARE = 0.1  # of the time that live pictures may take


@dataclass(frozen=True)
class Result:
    """What a reconstruction made."""

    avatar: Avatar
    report: Report | None  # None when nothing was held out


class Reconstructor:
    """Makes an avatar from a portrait video.

    >>> avatar = Reconstructor(preset="fast").fit("video.mp4")
    >>> avatar.save("avatar.mav")

    Args:
        preset: ``fast``, ``paper``, or the path of a TOML file.
        face_model: ``builtin``, or the file or folder of a face model.
        landmarks: ``auto``, ``face-alignment``, or a file of landmarks.
        holdout: last part of the video that is never trained on: below 1 a fraction, otherwise a number of frames.
        size_px: side of the square training images, a multiple of 8, 64 to 1024; None = what the preset says.
        device: where the avatar is trained and scored: ``cpu``, ``cuda``, or ``auto``, the GPU where there is one.
            Tracking and mattes run on the CPU.
        seed: of all random numbers; on the CPU the same seed on the same machine gives the same avatar, on a GPU
            nearly so.
        mlp_backend: what computes the small networks: one of
            :data:`manvatar.ops.mlp_backends.MLP_BACKENDS`; None = what the preset says. An avatar file is
            the same for all.
        model: ``manvatar``, the voxel avatar, or a 2D model to compare it with: ``bilayer`` or ``fewshot``. ``preset``
            is then ``fast`` or a TOML file of :class:`manvatar.baselines.one_video.OneVideoConfig`.
        eye_channels: lids and gaze are coefficients of their own, after those of the face model.
        holdout_kind: ``tail``, the last part of the video, or ``extreme``, the frames in which the head is turned
            furthest from its mean pose: what the avatar makes of poses it has not seen.

    Raises:
        UserError: an argument cannot be used.
    """

    def __init__(
        self,
        preset: str = "fast",
        face_model: str | Path = "builtin",
        landmarks: str | Path = "auto",
        holdout: float = 0.1,
        size_px: int | None = None,
        device: str = "auto",
        seed: int = 0,
        mlp_backend: str | None = None,
        model: str = "manvatar",
        eye_channels: bool = True,
        holdout_kind: Literal["tail", "extreme"] = "tail",
    ) -> None:
        self.model = model
        self.portrait: OneVideoConfig | None = None
        if model != "manvatar":
            self.portrait = one_video.load_config(model, preset, size_px)
            preset, size_px = "fast", self.portrait.network.image_size_px
        self.preset: Preset = _with_mlp_backend(load_preset(preset), mlp_backend)
        size_px = self.preset.size_px if size_px is None else size_px
        if size_px % 8 or not 64 <= size_px <= 1024:
            raise UserError(f"--size {size_px} is not possible; give a multiple of 8 from 64 to 1024")
        self.face_model, self.landmarks = face_model, landmarks
        self.tracker_config = TrackerConfig(eye_channels=eye_channels)
        self.dataset_config = DatasetConfig(size_px, holdout, holdout_kind=holdout_kind)
        self.device, self.seed = pick_device(device, native=self.portrait is None), seed
        if self.preset.field.mlp_backend == "tinycudann":
            require_tinycudann(self.device)
        name = self.preset.field.mlp_backend
        if name.startswith("native-bf16") and not mlp_has_bfloat16(self.device):
            raise UserError(f"--mlp-backend {name} needs AMX or a GPU of compute capability 8.0 or newer; use auto")

    def fit(
        self,
        video: str | Path,
        out: str | Path | None = None,
        *,
        start_s: float = 0.0,
        end_s: float | None = None,
        max_seconds: float | None = None,
        resume: bool = False,
        show_progress: bool = True,
    ) -> Avatar:
        """Track, train and, with ``out``, score and show; returns the avatar.

        Args:
            video: any file FFmpeg reads, one person's face in most of it; or a dataset folder of AvatarMAV, which is
                tracked and cut out already.
            out: folder for ``avatar.mav``, ``scores.json``, ``preview.mp4``, ``contact.png``, ``novel.mp4``,
                ``track.safetensors``, ``track_report.png``; None keeps nothing. What an interrupted run needs to go on
                lies in ``out/work`` and is deleted at the end.
            start_s, end_s: the part of the video to use.
            max_seconds: training ends after so many seconds, with its rates lowered in time; None = the preset's
                iterations; for a 2D model 10 minutes.
            resume: go on with an interrupted run of the same settings in ``out``; starts afresh where there is none.
            show_progress: progress bars on standard error.

        Raises:
            UserError: the video, the face model or the folder cannot be used; the message says why.
        """
        if out is None:
            import tempfile

            with tempfile.TemporaryDirectory(prefix="manvatar-") as folder:
                return self.run(
                    video, Path(folder), start_s, end_s, max_seconds, False, show_progress, report=False
                ).avatar
        return self.run(video, Path(out), start_s, end_s, max_seconds, resume, show_progress).avatar

    def run(
        self,
        video: str | Path,
        out: Path,
        start_s: float = 0.0,
        end_s: float | None = None,
        max_seconds: float | None = None,
        resume: bool = False,
        show_progress: bool = True,
        report: bool = True,
    ) -> Result:
        """:meth:`fit`, with the scores too."""
        begin = time.perf_counter()
        work = out / "work"
        prepared = self.prepare(video, work, start_s, end_s, max_seconds, resume, show_progress)
        if report and not prepared.clip.path.is_dir():  # somebody else's poses come without landmarks to compare with
            seen = write_track_report(work / TRACK_REPORT, prepared.track, prepared.face_model)
            logger.info("%s: %s", work / TRACK_REPORT, seen)
        result = self.train(prepared, out, max_seconds, resume, show_progress, report, begin)
        self.finish(work, out)
        return result

    def prepare(
        self,
        video: str | Path,
        work: Path,
        start_s: float = 0.0,
        end_s: float | None = None,
        max_seconds: float | None = None,
        resume: bool = False,
        show_progress: bool = True,
    ) -> Prepared:
        """The first half of :meth:`run`: track and cut out; the files of the dataset stay in ``work``."""
        if max_seconds is not None and not 0 < max_seconds < math.inf:
            raise UserError(f"--max-seconds {max_seconds:g} is not possible; give a positive number of seconds")
        clip = open_source(Path(video), start_s, end_s)
        if self.portrait is not None and clip.path.is_dir():
            raise UserError(f"{clip.path} has no landmarks, which drive --model {self.model}; give the video itself")
        tail_length(clip.frame_count, self.dataset_config.holdout)  # says at once what would come out after tracking
        model = load(self.face_model)
        make_folder(work.parent)
        how = Preparation(self.landmarks, self.tracker_config, self.dataset_config)
        run_id = self._run_id(clip)
        dataset, seconds = prepare_dataset(clip, model, make_folder(work), run_id, how, resume, show_progress)
        give_back_freed_memory()
        return Prepared(clip, model, load_track(work / TRACK), dataset, seconds)

    def finish(self, work: Path, out: Path) -> None:
        """Keep the track of what :meth:`prepare` has made in ``work``, in ``out``, and delete the rest."""
        for name in (TRACK, TRACK_REPORT):
            if (work / name).is_file():
                os.replace(work / name, out / name)
        clear(work)

    def train(
        self,
        prepared: Prepared,
        out: Path,
        max_seconds: float | None = None,
        resume: bool = False,
        show_progress: bool = True,
        report: bool = True,
        begin: float | None = None,
        novel: bool = True,
    ) -> Result:
        """The second half of :meth:`run`: train, write the avatar and, with ``report``, score and show.

        ``out/work`` holds a checkpoint meanwhile.

        Args:
            novel: with the tour of all expressions, ``novel.mp4``.
            begin: ``time.perf_counter()`` when work on the clip began; None = when its preparation would have begun.
        """
        begin = time.perf_counter() - prepared.seconds if begin is None else begin
        work = make_folder(make_folder(out) / "work")
        clip, dataset, run_id = prepared.clip, prepared.dataset, self._run_id(prepared.clip)
        if self.portrait is None:
            trainer = self._train(dataset, self._field_config(clip), work, run_id, max_seconds, resume, show_progress)
            avatar = self._avatar(trainer, clip, prepared.track)
        else:
            checkpoint, limit = work / CHECKPOINT, max_seconds or self.portrait.seconds
            rig = one_video.LandmarkRig.from_track(prepared.track, prepared.face_model)
            trainer = PortraitTrainer(dataset, self.model, self.portrait, self.seed, self.device, rig)
            one_video.train_portrait(trainer, checkpoint, run_id, limit, resume, show_progress)
            avatar = one_video.make_portrait(trainer, clip, prepared.track, prepared.face_model)
        result = Result(avatar, None)
        if report:
            facts = RunFacts(
                track_s=prepared.seconds,
                train_s=trainer.progress.seconds,
                peak_memory_bytes=peak_memory_bytes(),
                device=self.device.type,
                seed=self.seed,
                preset=self.preset.name if self.portrait is None else self.model,
                iterations=trainer.progress.iteration,
            )
            result = _show(avatar, dataset, out, facts, begin, show_progress, novel)
        (work / CHECKPOINT).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty
            work.rmdir()
        return result

    def _field_config(self, clip: Clip) -> FastFieldConfig | PaperFieldConfig:
        config = self.preset.field
        if clip.path.is_dir() and isinstance(config, PaperFieldConfig):
            return folder_config(clip.path, config)
        return config

    def _train(
        self,
        dataset: Dataset,
        config: FastFieldConfig | PaperFieldConfig,
        work: Path,
        run_id: str,
        max_seconds: float | None,
        resume: bool,
        show_progress: bool,
    ) -> Trainer:
        torch.manual_seed(self.seed)
        settings = dataclasses.asdict(config)
        field = make_field(self.preset.field_name, settings, dataset.bounds, dataset.expression.shape[1])
        trainer = Trainer(dataset, field, self.preset.training, self.seed, self.device)
        checkpoint = work / CHECKPOINT
        if resume and checkpoint.is_file():
            restore_checkpoint(trainer, checkpoint, run_id)
        preview = LivePreview(dataset, work.parent / "training.png")
        trainer.run(max_seconds or math.inf, _saving(checkpoint, run_id, preview), show_progress)
        trainer.forget_unseen()
        return trainer

    def _avatar(self, trainer: Trainer, clip: Clip, track: Track) -> Avatar:
        header = make_header(
            trainer.dataset,
            preset=self.preset.name,
            field_name=self.preset.field_name,
            # What trained an avatar need not be there where it is shown.
            field_config=dataclasses.replace(trainer.field.config, mlp_backend="auto"),
            march=self.preset.training.march,
            occupancy_cell_m=self.preset.training.occupancy_cell_m,
            face_model=track.face_model,
            expression_names=track.expression_names,
            clip_first_frame=clip.first_frame,
            training={
                "iterations": trainer.progress.iteration,
                "seconds": round(trainer.progress.seconds, 1),
                "seed": self.seed,
                "device": self.device.type,
                "mlp_backend": trainer.field.mlp_backend,
            },
            provenance=provenance(clip.path) if clip.path.is_file() else {"folder": clip.path.name},
            arkit=track_table(load(self.face_model), track),
        )
        return Avatar(header, trainer.field, trainer.occupancy)

    def _run_id(self, clip: Clip) -> str:
        """A fingerprint of everything that must be the same for an interrupted run to go on."""
        stat = clip.path.stat()
        facts = {
            "video": [clip.path.name, stat.st_size, stat.st_mtime_ns, clip.first_frame, clip.frame_count],
            "face_model": str(self.face_model),
            "landmarks": str(self.landmarks),
            "tracker": dataclasses.asdict(self.tracker_config),
            "preset": dataclasses.asdict(self.preset),
            "dataset": dataclasses.asdict(self.dataset_config),
            "seed": self.seed,
            "device": self.device.type,  # random numbers differ
        }
        if self.portrait is not None:
            facts |= {"model": self.model, "portrait": dataclasses.asdict(self.portrait)}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _with_mlp_backend(preset: Preset, name: str | None) -> Preset:
    if name is None:
        return preset
    return dataclasses.replace(preset, field=dataclasses.replace(preset.field, mlp_backend=name))


def _show(
    avatar: Avatar,
    dataset: Dataset,
    out: Path,
    facts: RunFacts,
    begin: float,
    show_progress: bool,
    novel: bool,
) -> Result:
    """Score, write everything people look at, and the avatar itself with its scores inside."""
    avatar.save(out / "avatar.mav")  # first, so that nothing below can lose it
    if len(dataset.held_out) == 0:
        if novel:
            write_novel(out / "novel.mp4", avatar, progress="novel views" if show_progress else None)
        return Result(avatar, None)
    facts = dataclasses.replace(facts, total_s=time.perf_counter() - begin)
    report = write_report(out, dataset, dataset_renderer(avatar, dataset), facts, show_progress=show_progress)
    scored = avatar.with_scores(report.table())
    scored.save(out / "avatar.mav")
    if novel:
        write_novel(out / "novel.mp4", scored, progress="novel views" if show_progress else None)
    return Result(scored, report)


def _saving(checkpoint: Path, run_id: str, preview: Callable[[Trainer], None]) -> Callable[[Trainer], None]:
    """What happens between iterations: now and then a checkpoint, and a picture to look at."""
    last = shown = time.perf_counter()
    cost = 0.0

    def after_iteration(trainer: Trainer) -> None:
        nonlocal last, shown, cost
        now = time.perf_counter()
        if now - last < _CHECKPOINT_SECONDS:
            return
        save_checkpoint(trainer, checkpoint, run_id)
        if (now - shown) * _PREVIEW_SHARE >= cost:
            preview(trainer)
            shown = time.perf_counter()
            cost = shown - now
        last = time.perf_counter()

    return after_iteration
