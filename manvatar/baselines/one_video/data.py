"""The frames of a dataset as a 2D model sees them: square images on white, masks, keypoints."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from manvatar.baselines.one_video.alignment import aligning_grid, inverse_affine
from manvatar.baselines.one_video.rig import LandmarkRig, as_keypoints
from manvatar.errors import UserError
from manvatar.types import Dataset

# One standard deviation of an augmentation of strength 1.
_MODE_FRAMES, _AT_ONCE, _RIDGE = 256, 16, 0.02
_SHIFT, _SCALE, _TILT_RAD = 0.06, 0.06, 0.15


@dataclass(frozen=True)
class Batch:
    """What one iteration sees."""

    keypoints: Float[Tensor, "images coordinates"]
    image: Float[Tensor, "images 3 size size"]  # on white, [-1, 1]
    mask: Float[Tensor, "images 1 size size"]  # [0, 1]

    def to(self, device: torch.device) -> Batch:
        return Batch(self.keypoints.to(device), self.image.to(device), self.mask.to(device))


class PortraitFrames:
    """Rows of a dataset as batches. The same images, mattes, poses and expressions that the voxel avatar is given.

    Args:
        rig: makes the landmarks, as it will when the model is driven; None = those of the dataset.

    Raises:
        UserError: the images are not square, or landmarks are missing (a dataset folder of AvatarMAV has none).
    """

    def __init__(self, dataset: Dataset, rig: LandmarkRig | None = None) -> None:
        width, height = dataset.camera.size_px
        if width != height:
            raise UserError(f"2D models take square images, but these are {width} x {height}")
        self.dataset = dataset
        if rig is None:
            self.keypoints = as_keypoints(dataset.landmarks_px, dataset.camera).float()
        else:
            self.keypoints = rig.keypoints(dataset.expression, dataset.cam_from_head, dataset.camera).float()
        if not bool(self.keypoints[dataset.train].isfinite().all()):
            raise UserError("2D models are driven by landmarks, and this dataset has none; give the video itself")

    def batch(self, rows: Int[Tensor, "images"]) -> Batch:
        rgba = self.dataset.images[rows].permute(0, 3, 1, 2).float() / 255
        mask = rgba[:, 3:]
        image = (rgba[:, :3] * mask + (1 - mask)) * 2 - 1
        return Batch(self.keypoints[rows], image, mask)

    def mean_texture(self, frames: int = 64) -> tuple[Float[Tensor, "1 3 size size"], Float[Tensor, "1 1 size size"]]:
        """What a texture begins with: the mean training image inside the mattes, aligned by its landmarks, [-1, 1]; and
        the mean matte, [0, 1]."""
        aligned = self._aligned(self._some(frames)).mean(0, keepdim=True)
        return (aligned[:, :3] / aligned[:, 3:].clamp_min(0.05)).clamp(0, 1) * 2 - 1, aligned[:, 3:].clamp(0, 1)

    def texture_modes(
        self, weights: Callable[[Tensor], Float[Tensor, "frames modes"]], texture: Float[Tensor, "1 3 size size"]
    ) -> Float[Tensor, "modes 3 size size"]:
        """By what the aligned images differ from ``texture`` with the weights of their keypoints, least squares.

        An active appearance model (Cootes, Edwards, Taylor, ECCV 1998) whose shape parameters explain its texture.
        """
        rows = self._some(_MODE_FRAMES)
        design = weights(self.keypoints[rows]).double()
        right = torch.zeros(design.shape[1], texture.numel())
        for chosen, some in zip(rows.split(_AT_ONCE), design.split(_AT_ONCE), strict=True):
            aligned = self._aligned(chosen)
            error = aligned[:, :3] * 2 - aligned[:, 3:] * (1 + texture)  # [-1, 1]; nothing where there is no person
            right += some.T.float() @ error.flatten(1)
        matrix = design.T @ design / len(rows) + _RIDGE * torch.eye(design.shape[1])
        return (torch.linalg.inv(matrix).float() @ right / len(rows)).view(-1, *texture.shape[1:])

    def _some(self, frames: int) -> Int[Tensor, "rows"]:
        """So many of the training rows, evenly."""
        train = self.dataset.train
        return train[torch.linspace(0, len(train) - 1, min(frames, len(train))).long()]

    def _aligned(self, rows: Int[Tensor, "images"]) -> Float[Tensor, "images 4 size size"]:
        """Images on the mean landmarks: colour times matte, and matte, [0, 1]."""
        batch = self.batch(rows)
        points = batch.keypoints.view(len(rows), -1, 2)
        grid = aligning_grid(self.mean_points().expand_as(points), points, batch.image.shape[-1])
        premultiplied = (batch.image + 1) / 2 - (1 - batch.mask)
        both = torch.cat([premultiplied, batch.mask], 1)
        return functional.grid_sample(both, grid, padding_mode="border", align_corners=False)

    def mean_points(self) -> Float[Tensor, "1 points 2"]:
        """The landmarks' mean over the training frames: where :meth:`mean_texture` has them."""
        return self.keypoints[self.dataset.train].mean(0).view(1, -1, 2)


def augmented(batch: Batch, strength: float, generator: torch.Generator) -> Batch:
    """Each image and its keypoints shifted, scaled and tilted at random; what comes from beyond the border is white.

    Args:
        strength: 1 = standard deviations of 6 % of the half side, 6 % and 0.15 rad; 0 = as it is.
    """
    if strength == 0:
        return batch
    count = len(batch.image)
    random = torch.randn(count, 4, generator=generator) * strength
    angle, scale = random[:, 0] * _TILT_RAD, (random[:, 1] * _SCALE).exp()
    shift = random[:, 2:] * _SHIFT
    cosine, sine = angle.cos() * scale, angle.sin() * scale
    turn = torch.stack([cosine, -sine, sine, cosine], -1).view(count, 2, 2)
    keypoints = batch.keypoints.view(count, -1, 2) @ turn.mT + shift[:, None]
    place = inverse_affine(torch.cat([turn, shift[:, :, None]], -1))
    grid = functional.affine_grid(place, list(batch.image.shape), align_corners=False)
    both = torch.cat([batch.image - 1, batch.mask], 1)  # 0 = background, which is what lies beyond the border
    both = functional.grid_sample(both, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return Batch(keypoints.flatten(1), both[:, :3] + 1, both[:, 3:])


class FrameOrder:
    """Which rows come next: shuffled passes over all of them."""

    def __init__(self, rows: Int[Tensor, "rows"], per_batch: int, generator: torch.Generator) -> None:
        self.rows, self.per_batch, self.generator = rows, per_batch, generator
        self.left = torch.empty(0, dtype=torch.int64)  # of the current pass; saved with a run

    def next(self) -> Int[Tensor, "images"]:
        while len(self.left) < self.per_batch:
            self.left = torch.cat([self.left, torch.randperm(len(self.rows), generator=self.generator)])
        chosen, self.left = self.left[: self.per_batch], self.left[self.per_batch :]
        return self.rows[chosen]


def cosine_rate(schedule: float, final_fraction: float) -> float:
    """From 1 at schedule 0 to ``final_fraction`` at 1 along half a cosine."""
    return final_fraction + (1 - final_fraction) * 0.5 * (1 + math.cos(math.pi * min(1.0, schedule)))
