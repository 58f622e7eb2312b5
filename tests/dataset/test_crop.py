"""The square cut out of each frame, and the camera that sees just that."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ellipsoid import head_poses
from tiny_avatar import front_pose

from manvatar.dataset.crop import Crop, fitted_crop, head_crop
from manvatar.geometry import project, transform
from manvatar.types import Camera, Track

CAMERA = Camera(torch.tensor([520.0, 520.0]), torch.tensor([160.0, 120.0]), (320, 240))


def make_track(poses: torch.Tensor, valid: torch.Tensor | None = None) -> Track:
    frames = len(poses)
    return Track(
        camera=CAMERA,
        cam_from_head=poses,
        identity=torch.zeros(4),
        expression=torch.zeros(frames, 3),
        landmark_offsets_m=torch.zeros(68, 3),
        residual_px=torch.zeros(frames),
        valid=torch.ones(frames, dtype=torch.bool) if valid is None else valid,
        frame_rate_hz=25.0,
        landmark_scheme="ibug68",
        face_model="builtin-1",
        expression_names=("a", "b", "c"),
    )


def picture() -> torch.Tensor:
    """Smooth, and different everywhere: what is cut can be recognised."""
    y, x = torch.meshgrid(torch.arange(240) + 0.5, torch.arange(320) + 0.5, indexing="ij")
    return torch.stack([x * 0.75, y, 127 + 60 * (x / 40).sin() * (y / 30).cos()], -1).round().to(torch.uint8)


@pytest.mark.parametrize(
    "crop",
    [Crop(40.0, 30.0, 160.0, 64), Crop(100.0, 60.0, 64.0, 64), Crop(120.0, 80.0, 48.0, 96)],
    ids=["half", "same", "double"],
)
def test_a_crop_shows_what_it_says(crop: Crop) -> None:
    """The first two channels hold x and y of the video: each pixel tells where it comes from."""
    cut = crop.cut(picture()).float()
    assert cut.shape == (64 if crop.size_px == 64 else 96, crop.size_px, 3)
    centers = (torch.arange(crop.size_px) + 0.5) / crop.scale
    inner = slice(2, -2)
    x = cut[inner, inner, 0] / 0.75
    torch.testing.assert_close(x, (crop.left_px + centers)[inner].expand_as(x), rtol=0, atol=1.1)  # 8 bits
    y = cut[inner, inner, 1]
    torch.testing.assert_close(y, (crop.top_px + centers)[inner, None].expand_as(y), rtol=0, atol=0.8)


def test_the_crops_camera_sees_the_cut_pixels() -> None:
    """A bright spot at a projected point is found where the crop's own camera projects the point."""
    point = torch.tensor([[[0.03, -0.02, 0.01]]])
    pose = front_pose()
    crop = Crop(90.0, 40.0, 120.0, 240)
    image = torch.zeros(240, 320, 3, dtype=torch.uint8)
    column, row = project(CAMERA, transform(pose, point[0]))[0].floor().long().tolist()
    image[row, column] = 255
    cut = crop.cut(image)[..., 0].double()
    grid_y, grid_x = torch.meshgrid(*[torch.arange(240) + 0.5] * 2, indexing="ij")
    found = torch.stack([(cut * grid_x).sum(), (cut * grid_y).sum()]) / cut.sum()
    centre_of_pixel = torch.tensor([column + 0.5, row + 0.5])
    in_crop = project(crop.camera(CAMERA), transform(pose, point[0]))[0]
    expected = in_crop + (centre_of_pixel - project(CAMERA, transform(pose, point[0]))[0]) * crop.scale
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.02)
    assert crop.camera(CAMERA).size_px == (240, 240)


@pytest.mark.parametrize(
    "crop", [Crop(60.0, 40.0, 160.0, 64), Crop(-20.0, -8.0, 120.0, 128)], ids=["inside", "over the border"]
)
def test_the_context_holds_the_crop(crop: Crop) -> None:
    context = crop.context()
    assert context.scale == crop.scale and context.size_px == crop.size_px * 3 // 2
    inner, alone = crop.inner(context.cut(picture())), crop.cut(picture())
    assert inner.shape == alone.shape
    deep = slice(3, -3)  # at its own border a crop does not see what antialiasing would mix in
    assert (inner[deep, deep].int() - alone[deep, deep].int()).abs().max() <= 1
    points = torch.randn(20, 3) * 0.1 + torch.tensor([0.0, 0.0, 0.6])
    shifted = project(context.camera(CAMERA), points) - crop.size_px // 4
    torch.testing.assert_close(shifted, project(crop.camera(CAMERA), points), rtol=0, atol=1e-3)


def test_beyond_the_border_its_pixels_are_repeated() -> None:
    cut = Crop(-32.0, 200.0, 64.0, 64).cut(picture())
    assert (cut[10, :32] == cut[10, 32]).all()  # left of the video: its first column
    assert (cut[40:, 40] == cut[39, 40]).all()  # below it: its last row
    assert (cut[10, 40:] != cut[10, 32]).any(-1).all()


def test_a_frame_of_one_size_is_copied() -> None:
    image = picture()
    assert torch.equal(Crop(16.0, 24.0, 128.0, 128).cut(image), image[24:152, 16:144])


def test_the_head_is_inside_in_every_frame() -> None:
    poses = head_poses(20)
    poses[:, 0, 3] = torch.linspace(-0.05, 0.05, 20)
    crop = head_crop(make_track(poses), 256)
    skull = torch.cartesian_prod(torch.tensor([-0.08, 0.08]), torch.tensor([-0.12, 0.11]), torch.tensor([-0.05, 0.0]))
    pixels = project(crop.camera(CAMERA), transform(poses, skull.expand(20, 8, 3)))
    assert pixels.min() > 0 and pixels.max() < 256
    assert float(pixels.amax((0, 1)).max() - pixels.amin((0, 1)).min()) > 0.6 * 256  # and it fills the picture


def test_failed_and_wild_frames_do_not_shrink_the_head() -> None:
    poses = head_poses(400)
    usual = head_crop(make_track(poses), 256)
    broken = poses.clone()
    broken[7, :3, 3] = torch.tensor([0.5, 0.4, 0.6])
    valid = torch.ones(400, dtype=torch.bool)
    valid[7] = False
    assert head_crop(make_track(broken, valid), 256).side_px == pytest.approx(usual.side_px, abs=8)
    assert head_crop(make_track(broken), 256).side_px == pytest.approx(
        usual.side_px, rel=0.1
    )  # not known to have failed


def test_crops_are_whole_pixels() -> None:
    for crop in (
        head_crop(make_track(head_poses(5)), 100),
        fitted_crop(Crop(3.0, 5.0, 100.0, 64), torch.ones(1, 64, 64), 64),
    ):
        assert crop.side_px % 4 == 0 and float(crop.left_px).is_integer() and float(crop.top_px).is_integer()
        assert crop.side_px == int(crop.side_px)


def test_fitted_around_what_the_mattes_show() -> None:
    crop = Crop(40.0, 20.0, 200.0, 100)
    alphas = torch.zeros(3, 100, 100)
    alphas[0, 30:50, 20:40] = 1
    alphas[2, 60:70, 50:90] = 0.9
    alphas[1, 0, 0] = 0.2  # hardly anything
    fitted = fitted_crop(crop, alphas, 256, margin=0.0)
    # Columns 20 to 90, rows 30 to 70 of an image at half the video's scale: 140 pixels wide around (150, 120).
    assert fitted == Crop(80.0, 50.0, 140.0, 256)
    assert fitted_crop(crop, alphas, 256, margin=0.1).side_px == pytest.approx(140 * 1.2, abs=4)


def test_without_a_matte_the_crop_stays() -> None:
    crop = Crop(40.0, 20.0, 200.0, 100)
    assert fitted_crop(crop, torch.zeros(2, 100, 100), 256) == replace(crop, size_px=256)


@pytest.mark.parametrize(
    "place", [(-9, -13, 70), (10, -5, 30), (35, 25, 20), (-20, 0, 10), (60, -2, 10), (-10, -40, 12), (0, -1, 51)]
)
def test_beyond_the_border_the_edge_is_repeated(place: tuple[int, int, int]) -> None:
    image = torch.randint(0, 256, (40, 51, 3), dtype=torch.uint8)
    left, top, side = place
    rows, columns = (torch.arange(low, low + side).clamp(0, n - 1) for low, n in ((top, 40), (left, 51)))
    assert torch.equal(Crop(float(left), float(top), float(side), side).cut(image), image[rows][:, columns])
