"""Timing, and the tour of all expressions."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_avatar import front_pose, tiny_avatar

from manvatar.avatars import turned
from manvatar.driving import resampled, sampled_evenly, sweep
from manvatar.face_models.channels import readable
from manvatar.geometry import vector_from_rotation


def test_resampling_a_line_gives_the_line() -> None:
    values = torch.arange(11.0)[:, None] * torch.tensor([[1.0, -2.0]])
    up = resampled(values, 10.0, 25.0)
    assert len(up) == 26
    torch.testing.assert_close(up[:, 0], torch.arange(26) / 2.5)
    down = resampled(values, 10.0, 5.0)
    torch.testing.assert_close(down, values[::2])
    assert torch.equal(resampled(values, 10.0, 10.0), values)
    assert torch.equal(resampled(values[:1], 10.0, 30.0), values[:1])


def test_resampling_keeps_the_duration() -> None:
    for to_hz in (24.0, 29.97, 60.0):
        samples = resampled(torch.rand(100, 3), 25.0, to_hz)
        assert (len(samples) - 1) / to_hz == pytest.approx(99 / 25, abs=1 / to_hz)


def test_poses_turn_evenly_and_stay_rigid() -> None:
    ends = turned(front_pose().expand(2, 4, 4), torch.tensor([-0.5, 1.0]))
    poses, rate = sampled_evenly(ends, torch.tensor([0.0, 1.0]), 10.0)
    assert rate == 10 and len(poses) == 11
    eye = torch.eye(3).expand(11, 3, 3)
    torch.testing.assert_close(poses[:, :3, :3] @ poses[:, :3, :3].transpose(1, 2), eye, atol=1e-5, rtol=0)
    steps = vector_from_rotation(poses[:-1, :3, :3].transpose(1, 2) @ poses[1:, :3, :3])
    torch.testing.assert_close(steps, torch.tensor([[0.0, 0.15, 0.0]]).expand(10, 3), atol=1e-5, rtol=0)


def test_sweep_shows_every_expression_at_its_ends_and_nothing_else() -> None:
    avatar = tiny_avatar()
    count = 12
    tour = sweep(avatar, frames_per_expression=count)
    lower, upper = avatar.expression_range
    assert len(tour.labels) == len(tour.expression) == len(tour.cam_from_head) == count * 3
    for k, name in enumerate(avatar.expression_names):
        part = tour.expression[k * count : (k + 1) * count]
        values = part[:, k]
        torch.testing.assert_close(values[[0, 3, 9]], torch.stack([avatar.neutral[k], upper[k], lower[k]]))
        assert values.max() <= upper[k] + 1e-6 and values.min() >= lower[k] - 1e-6
        # up, then down, then back
        assert (values[:4].diff() > 0).all() and (values[3:10].diff() < 0).all() and (values[9:].diff() > 0).all()
        others = [other for other in range(3) if other != k]
        assert torch.equal(part[:, others], avatar.neutral[others].expand(count, 2))
        assert tour.labels[k * count + 3] == f"{name}\n{float(upper[k]):+.2f} sd"


def test_the_head_turns_to_both_sides_and_nods() -> None:
    avatar = tiny_avatar()
    tour = sweep(avatar, 60)
    relative = avatar.head_pose[:3, :3].T @ tour.cam_from_head[:, :3, :3]
    yaw = torch.atan2(relative[:, 0, 2], relative[:, 2, 2])
    pitch = torch.asin(-relative[:, 1, 2])
    assert yaw.max() == pytest.approx(math.radians(20), abs=0.01) and yaw.min() == pytest.approx(
        -math.radians(20), abs=0.01
    )
    assert pitch.max() == pytest.approx(math.radians(8), abs=0.01)
    assert torch.equal(tour.cam_from_head[0], avatar.head_pose)
    # No jumps: it can be watched.
    steps = vector_from_rotation(tour.cam_from_head[:-1, :3, :3].transpose(1, 2) @ tour.cam_from_head[1:, :3, :3])
    assert steps.norm(dim=-1).max() < math.radians(3)


@pytest.mark.parametrize("count", [0, 3, 10])
def test_sweep_needs_a_multiple_of_four(count: int) -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        sweep(tiny_avatar(), count)


def test_labels_are_in_units_a_person_knows() -> None:
    assert readable("eyelidLeft", 2.0) == "100% shut"
    assert readable("gazeYaw", -2.0) == "-17 degrees"
    assert readable("jawOpen", 1.256) == "+1.26 sd"
