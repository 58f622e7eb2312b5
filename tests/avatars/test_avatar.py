"""Driving an avatar from Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_avatar import NAMES, front_pose, tiny_avatar, tiny_camera, tiny_dataset

from manvatar.avatars import Avatar, fitted_camera, turned
from manvatar.errors import UserError
from manvatar.geometry import mean_pose, project, transform
from manvatar.types import Camera


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    return tiny_avatar()


def _center(image: torch.Tensor) -> tuple[float, float]:
    """Centroid (x, y) of the alpha, in pixels."""
    alpha = image[..., 3].double()
    y, x = torch.meshgrid(*(torch.arange(n) + 0.5 for n in alpha.shape), indexing="ij")
    return float((alpha * x).sum() / alpha.sum()), float((alpha * y).sum() / alpha.sum())


def test_the_image_is_straight_rgba(avatar: Avatar) -> None:
    image = avatar.render(avatar.neutral)
    assert image.shape == (48, 48, 4) and image.dtype == torch.uint8 and image.device.type == "cpu"
    assert image[..., 3].max() > 250 and image[0, 0, 3] == 0
    # Straight, not premultiplied: on white it equals what is rendered on white.
    alpha = image[..., 3:].float() / 255
    on_white = image[..., :3].float() / 255 * alpha + 1 - alpha
    white = avatar.rendering(avatar.neutral, background=torch.ones(3)).rgb
    torch.testing.assert_close(on_white, white, atol=0.006, rtol=0)


def test_the_ball_is_where_the_camera_should_see_it(avatar: Avatar) -> None:
    pose = front_pose()
    camera = tiny_camera(96)
    expected = project(camera, transform(pose, torch.tensor([[0.0, 0.0, -0.02]])))[0]
    found = _center(avatar.render(avatar.neutral, pose, camera))
    assert found == pytest.approx(expected.tolist(), abs=0.5)


def test_expressions_move_it_and_names_equal_places(avatar: Avatar) -> None:
    by_name = avatar.render({"jawOpen": 1.5}, size_px=96)
    by_place = avatar.render([1.5, 0.0, 0.0], size_px=96)
    assert torch.equal(by_name, by_place)
    assert torch.equal(by_name, avatar.render(np.array([1.5, 0, 0]), size_px=96))
    assert torch.equal(by_name, avatar.render(torch.tensor([1.5, 0, 0], dtype=torch.float64), size_px=96))
    # The first coefficient moves the ball by -7.5 mm along the head's y, so down in the image.
    neutral = avatar.render([0.0, 0.0, 0.0], size_px=96)
    shift = _center(by_name)[1] - _center(neutral)[1]
    expected = 0.0075 / (0.5 + 0.02) * 2.4 * 96
    assert shift == pytest.approx(expected, rel=0.15)


def test_a_pose_moves_it(avatar: Avatar) -> None:
    pose = front_pose()
    pose[0, 3] = 0.03
    x, _ = _center(avatar.render(avatar.neutral, pose.numpy(), size_px=96))
    assert x == pytest.approx(48 + 0.03 / 0.52 * 2.4 * 96, abs=0.6)


def test_size_changes_resolution_and_not_the_view(avatar: Avatar) -> None:
    small, large = avatar.render(avatar.neutral), avatar.render(avatar.neutral, size_px=96)
    averaged = large[..., 3].float().reshape(48, 2, 48, 2).mean((1, 3))
    assert (averaged - small[..., 3].float()).abs().mean() < 2.5
    wide = avatar.render(avatar.neutral, size_px=(96, 48))
    assert wide.shape == (48, 96, 4)
    assert torch.equal(wide[:, 24:72], small) or (wide[:, 24:72].int() - small.int()).abs().max() <= 2


def test_fitted_camera_keeps_the_view_centred() -> None:
    camera = Camera(torch.tensor([100.0, 110.0]), torch.tensor([30.0, 20.0]), (64, 48))
    fitted = fitted_camera(camera, (256, 96))
    assert fitted.size_px == (256, 96)
    assert fitted.focal_px.tolist() == [200, 220]
    assert fitted.center_px.tolist() == [60 + 64, 40]
    assert fitted_camera(camera, 64).size_px == (64, 64)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"jawOpne": 1.0}, "no expression jawOpne; it has jawOpen, eyeBlinkLeft, mouthSmile"),
        ([1.0, 2.0], "3 coefficients"),
        ([0.0, float("nan"), 0.0], "not a finite number"),
    ],
)
def test_wrong_expressions(avatar: Avatar, values: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        avatar.render(values)


@pytest.mark.parametrize(
    "pose",
    [torch.eye(4) * 2, np.eye(3), torch.full((4, 4), float("nan")), torch.diag(torch.tensor([1.0, 1, -1, 1]))],
)
def test_wrong_poses(avatar: Avatar, pose: torch.Tensor | np.ndarray) -> None:
    with pytest.raises(UserError, match="head pose"):
        avatar.render(avatar.neutral, pose)


def test_what_the_header_says_comes_from_the_training_frames_alone() -> None:
    dataset = tiny_dataset()
    avatar = tiny_avatar(dataset)
    shown = dataset.expression[dataset.train]
    lower, upper = avatar.expression_range
    assert torch.equal(lower, shown.amin(0)) and torch.equal(upper, shown.amax(0))
    assert avatar.expression_names == NAMES
    assert avatar.header.training["held_out_frames"] == dataset.clip_frame[dataset.held_out].tolist()
    assert avatar.header.provenance["synthetic"] is True
    torch.testing.assert_close(avatar.head_pose, mean_pose(dataset.cam_from_head[dataset.train]).float())


def test_neutral_stays_in_the_range() -> None:
    dataset = tiny_dataset()
    dataset.expression[:, 1] += 5
    avatar = tiny_avatar(dataset)
    assert avatar.neutral.tolist() == [0.0, float(dataset.expression[dataset.train, 1].min()), 0.0]


def test_mean_pose_is_between_and_rigid() -> None:
    angles = torch.tensor([-0.4, 0.0, 0.4, 0.6, -0.6])
    mean = mean_pose(turned(front_pose().expand(5, 4, 4), angles)).float()
    torch.testing.assert_close(mean[:3, :3], front_pose()[:3, :3], atol=1e-6, rtol=0)
    torch.testing.assert_close(mean[:3, :3] @ mean[:3, :3].T, torch.eye(3), atol=1e-6, rtol=0)


def test_turning_signs_and_pivot() -> None:
    pose = front_pose()
    face = torch.tensor([[0.0, 0.0, 0.1]])  # in front of the eyes
    crown = torch.tensor([[0.0, 0.15, -0.09]])
    camera_of = lambda p, points: transform(p, points)[0]  # noqa: E731
    # The subject's left is the image's right when he faces the camera.
    assert camera_of(turned(pose, yaw_rad=0.3), face)[0] > camera_of(pose, face)[0] + 0.02
    assert camera_of(turned(pose, pitch_rad=0.3), face)[1] > camera_of(pose, face)[1] + 0.02  # y is down
    assert camera_of(turned(pose, roll_rad=0.3), crown)[0] < camera_of(pose, crown)[0] - 0.02
    pivot = torch.tensor([[0.0, -0.06, -0.09]])
    torch.testing.assert_close(camera_of(turned(pose, 0.5, -0.2, 0.3), pivot), camera_of(pose, pivot))


def test_devices(avatar: Avatar, tmp_path: object) -> None:
    avatar.save(f"{tmp_path}/a.mav")
    assert Avatar.load(f"{tmp_path}/a.mav", "cpu").device.type == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no CUDA device"):
            Avatar.load(f"{tmp_path}/a.mav", "cuda")
