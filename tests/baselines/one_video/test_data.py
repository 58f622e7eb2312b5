"""What the 2D models are given."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from baselines.one_video.small import small_dataset, small_rig
from torch.nn import functional

from manvatar.baselines.one_video.alignment import aligning_grid
from manvatar.baselines.one_video.data import Batch, FrameOrder, PortraitFrames, augmented, cosine_rate
from manvatar.errors import UserError
from manvatar.metrics import white_composite
from manvatar.types import Camera


def test_images_are_on_white_and_keypoints_fit_them() -> None:
    dataset = small_dataset(12, 2)
    batch = PortraitFrames(dataset).batch(torch.tensor([3, 7]))
    torch.testing.assert_close((batch.image[1] + 1) / 2, white_composite(dataset.images[7]).permute(2, 0, 1))
    torch.testing.assert_close(batch.mask[0, 0], dataset.images[3, :, :, 3].float() / 255)
    torch.testing.assert_close((batch.keypoints[0].view(68, 2) + 1) * 16, dataset.landmarks_px[3])


def test_the_mean_texture_is_the_face_without_white() -> None:
    dataset = small_dataset(12, 2)
    texture, mask = PortraitFrames(dataset).mean_texture()
    inside = dataset.images[..., 3].float().mean(0) > 250
    skin = (texture[0, :, inside].mean(1) + 1) / 2
    torch.testing.assert_close(skin, dataset.images[:10, inside][..., :3].float().mean((0, 1)) / 255, atol=0.03, rtol=0)
    assert mask[0, 0, inside].min() > 0.7 and mask[0, 0, 0, 0] < 0.1


def test_the_aligned_texture_laid_back_is_nearer_than_the_mean_image() -> None:
    dataset = small_dataset(24, 4, 64)
    frames = PortraitFrames(dataset)
    batch = frames.batch(dataset.train)
    points, texture = batch.keypoints.view(-1, 68, 2), frames.mean_texture()[0]
    grid = aligning_grid(points, frames.mean_points(), 64)
    laid = functional.grid_sample(texture.expand(len(grid), -1, -1, -1), grid, align_corners=False)
    inside = batch.mask.expand(-1, 3, -1, -1) > 0.99
    aligned = (laid - batch.image)[inside].abs().mean()
    plain = (texture - batch.image)[inside].abs().mean()
    assert aligned < 0.9 * plain


def test_modes_of_the_texture_show_what_its_mean_does_not() -> None:
    """Fitted to how far the mouth is open, they explain most of what varies there; without weights there are none."""
    dataset = small_dataset(40, 6, 64)
    frames = PortraitFrames(dataset)
    texture = frames.mean_texture()[0]
    opening = dataset.expression[:, :1] - dataset.expression[dataset.train, :1].mean()
    known = dict(zip(map(tuple, frames.keypoints.tolist()), opening, strict=True))

    def weights(keypoints: torch.Tensor) -> torch.Tensor:
        return torch.stack([known[tuple(row)] for row in keypoints.tolist()])

    modes = frames.texture_modes(weights, texture)
    rows = dataset.train
    aligned = frames._aligned(rows)
    shown = aligned[:, :3] / aligned[:, 3:].clamp_min(0.05) * 2 - 1
    wrong = [
        (shown - each)[:, :, 35:50, 24:40].square().mean() for each in (texture, texture + _mixed(opening, modes, rows))
    ]
    assert wrong[1] < 0.6 * wrong[0]
    assert frames.texture_modes(lambda keypoints: torch.zeros(len(keypoints), 2), texture).abs().max() == 0


def _mixed(weights: torch.Tensor, modes: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return torch.einsum("nk,kchw->nchw", weights[rows], modes)


def test_a_rig_makes_the_keypoints() -> None:
    dataset = small_dataset(12, 2)
    shifted = dataclasses.replace(small_rig(), neutral_m=small_rig().neutral_m + torch.tensor([0.01, 0.0, 0.0]))
    frames = PortraitFrames(dataset, shifted)
    wanted = shifted.keypoints(dataset.expression, dataset.cam_from_head, dataset.camera)
    assert torch.equal(frames.keypoints, wanted)
    assert not torch.equal(frames.keypoints, PortraitFrames(dataset).keypoints)


def test_images_and_keypoints_move_together() -> None:
    """A blob at a keypoint is at that keypoint afterwards, whatever was drawn."""
    size = 64
    keypoints = torch.zeros(6, 68, 2)
    keypoints[:, 0] = torch.tensor([0.3, -0.2])
    keypoints[:, 1] = torch.tensor([-0.4, 0.25])
    line = (2 * torch.arange(size) + 1) / size - 1
    masks = [(-((line[None] - x) ** 2 + (line[:, None] - y) ** 2) / 0.002).exp() for x, y in keypoints[0, :2].tolist()]
    image = torch.stack([1 - 2 * masks[0], 1 - 2 * masks[1], torch.ones(size, size)])
    batch = Batch(
        keypoints.flatten(1),
        image.expand(6, 3, size, size),
        torch.stack(masks).sum(0)[None, None].expand(6, 1, size, size),
    )
    moved = augmented(batch, 1.0, torch.Generator().manual_seed(1))
    assert (moved.keypoints - batch.keypoints).view(6, 68, 2)[:, :2].abs().amax((1, 2)).min() > 0.01
    for which in range(2):
        dark = 1 - moved.image[:, which]
        x = (dark * line).sum((1, 2)) / dark.sum((1, 2))
        y = (dark * line[:, None]).sum((1, 2)) / dark.sum((1, 2))
        torch.testing.assert_close(torch.stack([x, y], 1), moved.keypoints.view(6, 68, 2)[:, which], atol=0.01, rtol=0)
    assert augmented(batch, 0.0, torch.Generator()) is batch


def test_what_lies_beyond_the_border_is_white() -> None:
    black = Batch(torch.zeros(4, 136), -torch.ones(4, 3, 16, 16), torch.ones(4, 1, 16, 16))
    moved = augmented(black, 5.0, torch.Generator().manual_seed(0))
    assert moved.image.max() == 1 and moved.mask.min() == 0
    torch.testing.assert_close((1 - moved.image) / 2, moved.mask.expand(-1, 3, -1, -1), atol=1e-6, rtol=0)


def test_every_frame_comes_once_in_a_pass() -> None:
    order = FrameOrder(torch.arange(10, 22), 5, torch.Generator().manual_seed(0))
    seen = torch.cat([order.next() for _ in range(12)])
    assert seen.bincount(minlength=22).tolist() == [0] * 10 + [5] * 12
    more = FrameOrder(torch.arange(3), 8, torch.Generator().manual_seed(0)).next()
    assert len(more) == 8 and more.bincount().min() >= 2


def test_the_rate_falls_along_half_a_cosine() -> None:
    assert [round(cosine_rate(s, 0.1), 6) for s in (0.0, 0.5, 1.0, 2.0)] == [1.0, 0.55, 0.1, 0.1]


def test_datasets_that_cannot_serve() -> None:
    dataset = small_dataset(12, 2)
    blind = dataclasses.replace(dataset, landmarks_px=torch.full_like(dataset.landmarks_px, torch.nan))
    with pytest.raises(UserError, match="driven by landmarks"):
        PortraitFrames(blind)
    wide = Camera(dataset.camera.focal_px, dataset.camera.center_px, (64, 32))
    with pytest.raises(UserError, match="square images"):
        PortraitFrames(dataclasses.replace(dataset, camera=wide))
