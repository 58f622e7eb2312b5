"""The training loop: sample rays, march, render, compare, step; now and then look at what is empty and save."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from manvatar.dataset import depth_behind_surface, visual_hull
from manvatar.errors import UserError
from manvatar.ops import on_large_pages
from manvatar.rendering import (
    MarchConfig,
    MarchTables,
    OccupancyGrid,
    light_from_cells,
    march,
    march_tables,
    render,
    seen_cells,
)
from manvatar.training.captured import Captured
from manvatar.training.config import TrainingConfig
from manvatar.training.losses import image_loss, motion_loss, sample_loss
from manvatar.training.optimizer import GridAdam, make_optimizer
from manvatar.training.sampler import make_sampler
from manvatar.types import Dataset, RayBatch, Rays

_EARLY_STOP_TRANSMITTANCE = 0.01
_LOOK_EVERY = 20  # iterations
_FRAMES_TO_SEE = 120  # what these have not seen the others hardly have
_ROOM_STEP = 4096  # samples


@dataclass
class Progress:
    """How far a run has come; saved with it."""

    iteration: int = 0
    seconds: float = 0.0  # time spent training, over all sessions
    psnr_db: float = 0.0  # of the running mean of squared errors of training rays


class _Plan(NamedTuple):
    """What makes one iteration different from another, beside its rays and rates."""

    march: MarchConfig
    regularize: bool
    image_pixels: int
    capacity: int | None  # None: as many samples as there are


class Trainer:
    """One run. ``run`` goes on from wherever the state is, so resuming is restoring and calling it again.

    Args:
        field: one of :mod:`manvatar.fields`: besides what every field has, its ``box``, its ``parameter_groups`` and,
            where ``config`` asks for them, ``start_from`` and what the regularisers look at. It is moved to ``device``.
        device: where everything is computed. On a GPU the images lie in its memory, all of them.
    """

    def __init__(
        self, dataset: Dataset, field: nn.Module, config: TrainingConfig, seed: int, device: torch.device | None = None
    ) -> None:
        device = device or torch.device("cpu")
        self.dataset = replace(dataset, bounds=field.box)  # a field may fill a box of its own
        self.field, self.config = field, config
        self.generator = torch.Generator(device).manual_seed(seed)
        self.occupancy = OccupancyGrid(field.box, config.occupancy_cell_m)
        if config.start_from_surface:
            field.start_from(self._depth_m, dataset.cam_from_head[dataset.train])
            allowed = self._depth_m(self.occupancy.cell_centers_m()) > -config.margin_before_surface_m
            self.occupancy.allowed.copy_(allowed.view_as(self.occupancy.allowed))
        elif config.within_hull:
            allowed = visual_hull(dataset, self.occupancy.cell_centers_m())
            self.occupancy.allowed.copy_(allowed.view_as(self.occupancy.allowed))
        self.field.to(device)
        self.occupancy.to(device)
        try:
            self.sampler = make_sampler(_on_device(self.dataset, device), config, self.generator)
        except torch.OutOfMemoryError as error:
            needed = 2 * dataset.images.numel() / 1e9
            raise UserError(
                f"the images need up to {needed:.1f} GB of the GPU's memory, which it does not have; "
                "use smaller images, a shorter part of the video, or --device cpu"
            ) from error
        for parameter in field.parameters():
            parameter.data = on_large_pages(parameter.data)
        self.optimizer: GridAdam = make_optimizer(field.parameter_groups(), config)
        self.progress = Progress()
        self._white = torch.ones(3, device=device)
        self.squared_error = torch.zeros((), device=device)  # running mean
        self._tables: MarchTables | None = None
        self._captured: Captured | None = None
        if config.cuda_graph and device.type == "cuda":
            self._captured = Captured(self._learn_from, self.generator)
        self._room = 0  # rows for the samples of an iteration that is recorded
        self._used = torch.zeros((), dtype=torch.int64, device=device)  # most samples of an iteration lately

    def _depth_m(self, points_m: Tensor) -> Tensor:
        """Depth behind the tracked face inside the visual hull; far in front of it outside the hull."""
        inside = visual_hull(self.dataset, points_m)
        return torch.where(inside, depth_behind_surface(points_m, self.dataset.surface_m), -torch.inf)

    def run(
        self,
        max_seconds: float = math.inf,
        every: Callable[[Trainer], None] | None = None,
        show_progress: bool = True,
    ) -> None:
        """Train to the end of the schedule, which ``max_seconds`` shortens: rates fall with whichever comes first.

        ``every`` is called after each iteration (for checkpoints and previews); its time is not counted.
        """
        total = self.config.iterations
        bar = tqdm(total=total, initial=self.progress.iteration, desc="train", disable=not show_progress, unit="it")
        with bar:
            while self.progress.iteration < total and self.progress.seconds < max_seconds:
                start = time.perf_counter()
                self.step(self._schedule(max_seconds))
                self.progress.seconds += time.perf_counter() - start
                bar.update()
                if self.progress.iteration % _LOOK_EVERY == 0:
                    bar.set_postfix_str(f"{self.progress.psnr_db:.2f} dB")
                if every is not None:
                    every(self)

    def step(self, schedule: float) -> None:
        """One iteration at ``schedule`` in [0, 1], the part of the run that is done."""
        config = self.config
        self._set_rates(schedule)
        self._set_image_size(schedule)
        if self._tables is None or (config.occupancy_every and self.progress.iteration % config.occupancy_every == 0):
            self._look_where_it_is_empty()
        plan, batch = self._plan(), self.sampler.next()
        self.optimizer.count(scales=plan.capacity is not None)
        if plan.capacity is None:
            squared = self._learn(plan, batch, self._tables)
        else:
            squared = self._captured(plan, *_parts(batch, self._tables))
        self.progress.iteration += 1
        self._note_error(squared)

    def _plan(self) -> _Plan:
        iteration, config = self.progress.iteration, self.config
        fixed = self._captured is not None and iteration >= config.coarse_iterations  # before that the step changes
        return _Plan(
            self._march_config(),
            iteration % config.regularize_every == 0,
            self._image_pixels(),
            (self._room or None) if fixed else None,
        )

    def _learn(self, plan: _Plan, batch: RayBatch, tables: MarchTables) -> Tensor:
        """March, render, compare and update the field; returns the mean squared error."""
        config = self.config
        samples = march(batch.rays, self.occupancy, tables, plan.march, self.generator, plan.capacity)
        field = self.field.at(batch.expression, batch.cam_from_head)
        rendering = render(field, batch.rays, samples, self._white)
        loss = image_loss(rendering, batch.rgb, batch.alpha, config.loss, plan.image_pixels)
        loss = loss + sample_loss(field, config.loss)
        if plan.regularize:
            loss = loss + config.regularize_every * motion_loss(field, config.loss)
        loss.backward()
        self.optimizer.update(scales=plan.capacity is not None)  # clears the gradients, too
        if self._captured is not None:
            torch.maximum(self._used, samples.offsets[-1], out=self._used)
        return (rendering.rgb.detach() - batch.rgb).square().mean()

    def _learn_from(self, plan: _Plan, *tensors: Tensor) -> Tensor:
        """:meth:`_learn` from what :func:`_parts` took apart."""
        rays, others, tables = Rays(*tensors[:3]), tensors[3:7], MarchTables(*tensors[7:])
        return self._learn(plan, RayBatch(rays, *others), tables)

    def _note_error(self, squared: Tensor) -> None:
        """Keep the running mean; to look at it is to wait for the device, so that is done now and then."""
        iteration = self.progress.iteration
        self.squared_error.lerp_(squared, max(0.02, 1 / iteration))
        if iteration % _LOOK_EVERY == 0 or iteration == self.config.iterations:
            self.progress.psnr_db = -10 * math.log10(max(1e-10, self.squared_error.item()))

    def _march_config(self) -> MarchConfig:
        """Long steps first: while the whole visual hull may be occupied, short ones cost much and show nothing more.

        And no ray stops early before it has reached the head: what is behind the first fog would get no gradient.
        """
        config = self.config
        part = min(1.0, self.progress.iteration / max(1, config.coarse_iterations))
        step_m = max(config.march.step_m, config.coarse_step_m ** (1 - part) * config.march.step_m**part)
        stop = config.march.stop_transmittance
        if part < 1:
            stop = min(stop, _EARLY_STOP_TRANSMITTANCE)
        return replace(config.march, step_m=step_m, stop_transmittance=stop)

    def _look_where_it_is_empty(self) -> None:
        if self.config.occupancy_every == 0:
            self.refresh_tables()
            return
        dataset = self.sampler.dataset
        chosen = torch.randint(len(dataset.train), (8,), generator=self.generator, device=self.generator.device)
        rows = dataset.train[chosen]
        expressions, poses = dataset.expression[rows], dataset.cam_from_head[rows]
        self.occupancy.update(self.field, expressions, self.generator, fraction=0.5, cam_from_head=poses)
        self.refresh_tables()
        if self._captured is not None:
            self._make_room()

    def _make_room(self) -> None:
        """Rows for the samples of an iteration, some more than were needed since this was last asked.

        It waits for the device, as looking where it is empty has just done. While there are too few, the last rays of
        an iteration lack samples.
        """
        used = int(self._used)
        self._used.zero_()
        if used > 0.95 * self._room or used < 0.6 * self._room:
            self._room = math.ceil(1.2 * used / _ROOM_STEP) * _ROOM_STEP
            self._captured.forget()

    def forget_unseen(self) -> None:
        """Empty the cells that training never saw: a turned head shows no fog of what began opaque behind it."""
        if self.config.least_light == 0:
            return
        self.refresh_tables()
        dataset, march_config = self.sampler.dataset, self.config.march
        rows = dataset.train[:: max(1, len(dataset.train) // _FRAMES_TO_SEE)]
        light = light_from_cells(
            self.field,
            self.occupancy,
            self._tables,
            march_config,
            dataset.camera,
            dataset.cam_from_head[rows],
            dataset.expression[rows],
        )
        self.occupancy.allowed &= seen_cells(light, self.config.least_light)
        self.refresh_tables()

    def refresh_tables(self) -> None:
        """Make what marching reads anew, after the occupancy grid has changed."""
        self._tables = march_tables(self.occupancy, self.config.march)

    def _schedule(self, max_seconds: float) -> float:
        by_time = self.progress.seconds / max_seconds if math.isfinite(max_seconds) else 0.0
        return min(1.0, max(self.progress.iteration / self.config.iterations, by_time))

    def _set_rates(self, schedule: float) -> None:
        config, iteration = self.config, self.progress.iteration
        decay = config.final_rate_fraction**schedule
        warm = min(1.0, (iteration + 1) / max(1, config.warmup_iterations))
        delayed = min(1.0, max(0.0, iteration - config.motion_delay_iterations) / max(1, config.warmup_iterations))
        if config.motion_delay_iterations == 0:
            delayed = warm
        for group in self.optimizer.param_groups:
            ramp = delayed if group["name"] == "motion" else warm
            group["lr"] = group["initial_rate"] * decay * ramp

    def _set_image_size(self, schedule: float) -> None:
        """The first part of the schedule sees images of half the size, where the settings say so."""
        config = self.config
        if config.half_size_iterations:
            self.sampler.shrink = 2 if schedule < config.half_size_iterations / config.iterations else 1

    def _image_pixels(self) -> int:
        width, height = self.dataset.camera.size_px
        shrink = self.sampler.shrink if self.config.half_size_iterations else 1
        return (width // shrink) * (height // shrink)


def _parts(batch: RayBatch, tables: MarchTables) -> list[Tensor]:
    rays = batch.rays
    learnt_from = [batch.expression, batch.cam_from_head, batch.rgb, batch.alpha]
    return [rays.origins_m, rays.directions, rays.frame, *learnt_from, tables.occupied, tables.lowest]


def _on_device(dataset: Dataset, device: torch.device) -> Dataset:
    """The part of a dataset that iterations read; itself on the CPU, where images stay on disk until they are read."""
    if device.type == "cpu":
        return dataset
    names = ("images", "cam_from_head", "expression", "landmarks_px", "train")
    camera = replace(
        dataset.camera, focal_px=dataset.camera.focal_px.to(device), center_px=dataset.camera.center_px.to(device)
    )
    return replace(dataset, camera=camera, **{name: getattr(dataset, name).to(device) for name in names})
