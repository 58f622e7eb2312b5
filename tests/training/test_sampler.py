"""Which rays a training iteration sees."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ellipsoid import ellipsoid_dataset

from manvatar.geometry import project, transform
from manvatar.metrics import white_composite
from manvatar.training.sampler import RaySampler
from manvatar.types import Dataset, RayBatch

BORDER = 3


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Twelve frames, of which rows 1 to 9 but 5 are trained on."""
    made = ellipsoid_dataset(frames=12, held_out=2, size_px=48)
    return replace(made, train=torch.tensor([1, 2, 3, 4, 6, 7, 8, 9]))


def sampler(dataset: Dataset, seed: int = 0, **changes: float) -> RaySampler:
    options = {"rays_per_batch": 300, "frames_per_batch": 3, "detail_fraction": 0.25, "border_px": BORDER} | changes
    return RaySampler(dataset, **options, generator=torch.Generator().manual_seed(seed))


def rows_of(dataset: Dataset, batch: RayBatch) -> list[int]:
    """Which dataset rows a batch shows, found by their expression."""
    return [int((dataset.expression == e).all(1).nonzero()) for e in batch.expression]


def pixels_of(dataset: Dataset, batch: RayBatch) -> torch.Tensor:
    """Where the rays go through the image of their frame."""
    poses = dataset.cam_from_head[rows_of(dataset, batch)][batch.rays.frame]
    points = batch.rays.origins_m + batch.rays.directions
    return project(dataset.camera, transform(poses, points[:, None])[:, 0])


def test_rays_and_colours_belong_together(dataset: Dataset) -> None:
    batch = sampler(dataset).next()
    pixels = pixels_of(dataset, batch)
    torch.testing.assert_close(pixels.frac(), torch.full_like(pixels, 0.5), rtol=0, atol=2e-3)
    column, row = pixels.floor().long().unbind(1)
    frames = torch.tensor(rows_of(dataset, batch))[batch.rays.frame]
    assert torch.equal(batch.alpha, dataset.images[frames, row, column, 3] / 255)
    on_white = torch.stack([white_composite(image) for image in dataset.images])
    torch.testing.assert_close(batch.rgb, on_white[frames, row, column])
    assert batch.rgb.shape == (300, 3) and batch.expression.shape == (3, 2)


def test_frames_come_in_runs(dataset: Dataset) -> None:
    """Fields like runs of one frame."""
    frame = sampler(dataset).next().rays.frame
    assert torch.equal(frame, frame.sort().values) and frame.bincount().tolist() == [100, 100, 100]


def test_every_training_frame_is_seen_as_often(dataset: Dataset) -> None:
    made = sampler(dataset)
    seen = [row for _ in range(16) for row in rows_of(dataset, made.next())]  # 48 frames: six passes over eight
    assert torch.tensor(seen).bincount(minlength=12).tolist() == [0, 6, 6, 6, 6, 0, 6, 6, 6, 6, 0, 0]
    assert all(len(set(seen[start : start + 8])) == 8 for start in range(0, 48, 8))
    assert seen[:8] != seen[8:16]


def test_rays_lie_near_the_matte(dataset: Dataset) -> None:
    made = sampler(dataset, detail_fraction=0.0)
    outside = 0
    for _ in range(10):
        batch = made.next()
        column, row = pixels_of(dataset, batch).floor().long().unbind(1)
        frames = torch.tensor(rows_of(dataset, batch))[batch.rays.frame]
        for f, x, y in zip(frames.tolist(), column.tolist(), row.tolist(), strict=True):
            window = slice(max(0, y - BORDER), y + BORDER + 1), slice(max(0, x - BORDER), x + BORDER + 1)
            assert dataset.images[f, :, :, 3][window].max() > 8
            outside += int(dataset.images[f, y, x, 3]) == 0
    assert outside > 100  # and the border itself is looked at, or nothing would stop floaters there


def test_detail_rays_fall_on_mouth_and_eyes(dataset: Dataset) -> None:
    batch = sampler(dataset, rays_per_batch=3000, detail_fraction=1.0).next()
    pixels, rows = pixels_of(dataset, batch), rows_of(dataset, batch)
    inside = {}
    for name, points in (("mouth", slice(48, 68)), ("eye", slice(36, 42)), ("other eye", slice(42, 48))):
        boxes = dataset.landmarks_px[rows][:, points]
        low, high = boxes.amin(1)[batch.rays.frame], boxes.amax(1)[batch.rays.frame]
        pad = 0.55 * (high - low).amax(1, keepdim=True) + 1
        inside[name] = ((pixels > low - pad) & (pixels < high + pad)).all(1)
    assert (inside["mouth"] | inside["eye"] | inside["other eye"]).all()
    assert inside["mouth"].float().mean() > 0.45 and min(i.float().mean() for i in inside.values()) > 0.2


def test_landmarks_out_of_the_picture(dataset: Dataset) -> None:
    """A face that leaves the crop: rays stay within the image."""
    away = replace(dataset, landmarks_px=dataset.landmarks_px + torch.tensor([500.0, -300.0]))
    pixels = pixels_of(away, sampler(away, detail_fraction=1.0).next())
    assert (pixels > 0).all() and (pixels < 48).all()


def test_without_any_matte(dataset: Dataset) -> None:
    empty = replace(dataset, images=torch.zeros_like(dataset.images))
    batch = sampler(empty).next()
    assert len(batch.rgb) == 300 and (batch.rgb == 1).all() and (batch.alpha == 0).all()


def test_fewer_frames_than_a_batch_takes(dataset: Dataset) -> None:
    two = replace(dataset, train=torch.tensor([4, 7]))
    batch = sampler(two, frames_per_batch=8).next()
    assert sorted(rows_of(two, batch)) == [4, 7] and len(batch.rgb) == 300


def test_state_goes_on(dataset: Dataset) -> None:
    made, other = sampler(dataset), sampler(dataset, seed=9)
    made.next()
    other.restore(made.state())
    other.generator.set_state(made.generator.get_state())
    one, two = made.next(), other.next()
    assert torch.equal(one.rgb, two.rgb) and torch.equal(one.expression, two.expression)
