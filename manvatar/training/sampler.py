"""Which rays an iteration sees."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from manvatar.geometry import crop_camera
from manvatar.rendering import camera_rays
from manvatar.training.config import TrainingConfig
from manvatar.types import Dataset, RayBatch

_MOUTH = range(48, 68)
_EYES = (range(36, 42), range(42, 48))
_DETAIL_SHARES = torch.tensor([0, 0, 1, 2])  # the mouth moves most and gets half of the detail rays


class FrameOrder:
    """Which training frames come next: shuffled passes over all of them. Lives where ``generator`` does."""

    def __init__(self, frame_count: int, frames_per_batch: int, generator: torch.Generator) -> None:
        self.frame_count = frame_count
        self.frames_per_batch = min(frames_per_batch, frame_count)
        self.generator = generator
        self._order = torch.empty(0, dtype=torch.int64, device=generator.device)

    def state(self) -> Tensor:
        """What is left of the current pass over the frames; with the generator's state it restores the sampler."""
        return self._order

    def restore(self, state: Tensor) -> None:
        """Go on from a :meth:`state`."""
        self._order = state.to(self.generator.device)

    def _next_frames(self) -> Int[Tensor, "batch"]:
        if len(self._order) < self.frames_per_batch:
            fresh = torch.randperm(self.frame_count, generator=self.generator, device=self.generator.device)
            self._order = torch.cat([self._order, fresh])
        chosen, self._order = self._order[: self.frames_per_batch], self._order[self.frames_per_batch :]
        return chosen

    def _rand(self, *shape: int) -> Float[Tensor, "..."]:
        """Uniform in [0, 1)."""
        return torch.rand(shape, generator=self.generator, device=self.generator.device)


class RaySampler(FrameOrder):
    """Draws rays from random training frames: anywhere near the matte, and more often from mouth and eyes.

    Far from the matte every pixel is white and nothing is occupied, so rays there teach nothing.

    Args:
        dataset: on the device of ``generator``, as is all it hands out.
    """

    def __init__(
        self,
        dataset: Dataset,
        rays_per_batch: int,
        frames_per_batch: int,
        detail_fraction: float,
        border_px: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__(len(dataset.train), frames_per_batch, generator)
        self.dataset = dataset
        self.rays_per_frame = max(1, rays_per_batch // self.frames_per_batch)
        self.detail_rays = round(self.rays_per_frame * detail_fraction)
        rows, generator_device = dataset.train.tolist(), generator.device
        sizes = [len(_near_matte(dataset.images[row, :, :, 3], border_px)) for row in rows]
        # Of all frames, one after the other; found twice, because a list of them would be as large again. Indices of up
        # to 65536 pixels fit two bytes, counted from the middle.
        width, height = dataset.camera.size_px
        self.pool_origin = 32768 if width * height <= 65536 else 0
        dtype = torch.int16 if self.pool_origin else torch.int32
        self.pool = torch.empty(sum(sizes), dtype=dtype, device=generator_device)
        for row, part in zip(rows, self.pool.split(sizes), strict=True):
            part.copy_(_near_matte(dataset.images[row, :, :, 3], border_px) - self.pool_origin)
        self.pool_size = torch.tensor(sizes, device=generator_device)
        self.pool_start = self.pool_size.cumsum(0) - self.pool_size
        self.boxes = _detail_boxes(dataset.landmarks_px[dataset.train], dataset.camera.size_px)
        self.detail_shares = _DETAIL_SHARES.to(self.boxes.device)

    def next(self) -> RayBatch:
        """The next batch; frames come in shuffled passes over the training set."""
        chosen, dataset = self._next_frames(), self.dataset
        xy = torch.cat([self._anywhere(chosen), self._in_detail(chosen)], 1).flatten(0, 1)
        frame = torch.arange(len(chosen), device=xy.device).repeat_interleave(self.rays_per_frame)
        rows = dataset.train[chosen]
        rgba = dataset.images[rows[frame], xy[:, 1], xy[:, 0]].float() / 255
        alpha = rgba[:, 3]
        rgb = rgba[:, :3] * alpha[:, None] + (1 - alpha[:, None])
        poses = dataset.cam_from_head[rows]
        rays = camera_rays(dataset.camera, poses, xy + 0.5, frame)
        return RayBatch(rays, dataset.expression[rows], poses, rgb, alpha)

    def _anywhere(self, chosen: Int[Tensor, "batch"]) -> Int[Tensor, "batch rays 2"]:
        count = self.pool_size[chosen][:, None]
        drawn = (self._rand(len(chosen), self.rays_per_frame - self.detail_rays) * count).long()
        flat = self.pool[self.pool_start[chosen][:, None] + drawn.minimum(count - 1)].long() + self.pool_origin
        width = self.dataset.camera.size_px[0]
        return torch.stack([flat % width, flat // width], -1)

    def _in_detail(self, chosen: Int[Tensor, "batch"]) -> Int[Tensor, "batch rays 2"]:
        shares = self.detail_shares
        which = shares[(self._rand(len(chosen), self.detail_rays) * len(shares)).long()]
        box = self.boxes[chosen[:, None], which]
        spread = self._rand(len(chosen), self.detail_rays, 2)
        return (box[..., :2] + spread * (box[..., 2:] - box[..., :2])).long()


class WholeImageSampler(FrameOrder):
    """Draws rays from anywhere in random training frames, no pixel of a frame twice in a batch.

    ``shrink`` pixels of the dataset's images, along each axis, make one of the image that rays are drawn from: its
    colour is their mean. It may be changed between batches.

    Args:
        dataset: on the device of ``generator``, as is all it hands out.
    """

    def __init__(
        self, dataset: Dataset, rays_per_batch: int, frames_per_batch: int, generator: torch.Generator
    ) -> None:
        super().__init__(len(dataset.train), frames_per_batch, generator)
        self.dataset = dataset
        self.rays_per_frame = max(1, rays_per_batch // self.frames_per_batch)
        self.shrink = 1

    def next(self) -> RayBatch:
        """The next batch."""
        dataset, rows, device = self.dataset, self.dataset.train[self._next_frames()], self.generator.device
        width, height = (side // self.shrink for side in dataset.camera.size_px)
        camera = crop_camera(dataset.camera, 0.0, 0.0, 1 / self.shrink, (width, height))
        count = min(self.rays_per_frame, width * height)
        flat = torch.cat(
            [torch.randperm(width * height, generator=self.generator, device=device)[:count] for _ in range(len(rows))]
        )
        frame = torch.arange(len(rows), device=device).repeat_interleave(count)
        xy = torch.stack([flat % width, flat // width], -1)
        line = torch.arange(self.shrink, device=device)
        fine = xy[:, None] * self.shrink + torch.cartesian_prod(line, line).view(-1, 2)
        rgba = dataset.images[rows[frame][:, None], fine[..., 1], fine[..., 0]].float() / 255
        alpha = rgba[..., 3:]
        rgb = rgba[..., :3] * alpha + (1 - alpha)
        poses = dataset.cam_from_head[rows]
        rays = camera_rays(camera, poses, xy + 0.5, frame)
        return RayBatch(rays, dataset.expression[rows], poses, rgb.mean(1), alpha[..., 0].mean(1))


def make_sampler(
    dataset: Dataset, config: TrainingConfig, generator: torch.Generator
) -> RaySampler | WholeImageSampler:
    """The sampler that ``config`` asks for."""
    rays, frames = config.rays_per_iteration, config.frames_per_iteration
    if config.whole_image:
        return WholeImageSampler(dataset, rays, frames, generator)
    return RaySampler(dataset, rays, frames, config.detail_ray_fraction, config.border_px, generator)


def _near_matte(alpha: Tensor, border_px: int) -> Int[Tensor, "pixels"]:
    """Flat indices of the pixels within ``border_px`` of the matte."""
    mask = (alpha > 8)[None, None].float()
    window = 2 * border_px + 1
    near = torch.nn.functional.max_pool2d(mask, (window, 1), 1, (border_px, 0))
    near = torch.nn.functional.max_pool2d(near, (1, window), 1, (0, border_px))
    flat = near.flatten().nonzero()[:, 0].to(torch.int32)
    return flat if len(flat) else torch.arange(alpha.numel(), dtype=torch.int32, device=alpha.device)


def _detail_boxes(landmarks_px: Float[Tensor, "train 68 2"], size_px: tuple[int, int]) -> Float[Tensor, "train 3 4"]:
    """Boxes (left, top, right, bottom) of mouth, right eye and left eye, with a margin, inside the image."""
    boxes = []
    limit = torch.tensor(size_px, dtype=torch.float32, device=landmarks_px.device) - 1
    for part, margin in ((_MOUTH, 0.25), (_EYES[0], 0.5), (_EYES[1], 0.5)):
        points = landmarks_px[:, list(part)]
        low, high = points.amin(1), points.amax(1)
        pad = (high - low).amax(-1, keepdim=True) * margin
        low = torch.minimum((low - pad).clamp_min(0), limit - 1)
        high = torch.maximum(torch.minimum(high + pad, limit), low + 1)
        boxes.append(torch.cat([low, high], -1))
    return torch.stack(boxes, 1)
