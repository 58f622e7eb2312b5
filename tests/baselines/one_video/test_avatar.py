"""A 2D model as an avatar: its file, other sizes and cameras, backgrounds, and driving it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from baselines.one_video.small import CONFIG, small_dataset, small_rig

from manvatar.avatars import Avatar, dataset_renderer, make_header
from manvatar.baselines.bilayer.blocks import standing_statistics
from manvatar.baselines.one_video import LandmarkRig, PortraitAvatar, PortraitTrainer, make_portrait
from manvatar.baselines.one_video.data import PortraitFrames
from manvatar.baselines.one_video.models import make_model
from manvatar.driving import write_sequence
from manvatar.errors import UserError
from manvatar.face_models import load
from manvatar.rendering import MarchConfig
from manvatar.types import Camera, Clip, Dataset, Track
from manvatar.video import open_clip


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return small_dataset(12, 2)


def avatar_of(dataset: Dataset, name: str = "bilayer") -> PortraitAvatar:
    header = make_header(
        dataset,
        preset=name,
        field_name=name,
        field_config=CONFIG.network,
        march=MarchConfig(),
        occupancy_cell_m=0.0,
        face_model="ellipsoid",
        expression_names=("open", "nothing"),
    )
    torch.manual_seed(1)
    model = make_model(name, CONFIG.network)
    if name == "bilayer":
        model.start_from(
            torch.rand(1, 3, 32, 32) * 2 - 1, torch.rand(1, 1, 32, 32), PortraitFrames(dataset).keypoints, 0.02
        )
        standing_statistics(model, [lambda: model(PortraitFrames(dataset).keypoints)])  # so that keypoints matter
    return PortraitAvatar(header, model, small_rig())


def test_the_file_gives_the_same_picture(dataset: Dataset, tmp_path: Path) -> None:
    for name in ("bilayer", "fewshot"):
        avatar, path = avatar_of(dataset, name), tmp_path / f"{name}.mav"
        avatar.save(path, precision="full")
        loaded = PortraitAvatar.load(path, "cpu")
        wanted, found = avatar.render({"open": 0.4}), loaded.render({"open": 0.4})
        assert torch.equal(wanted, found) and wanted.shape == (32, 32, 4)
        half = tmp_path / "half.mav"
        avatar.save(half)
        assert half.stat().st_size < 0.6 * path.stat().st_size
        near = (PortraitAvatar.load(half, "cpu").render({"open": 0.4}).float() - wanted.float()).abs()
        assert near.mean() < 1


def test_files_of_something_else(dataset: Dataset, tmp_path: Path) -> None:
    avatar = avatar_of(dataset)
    other = PortraitAvatar(dataclasses.replace(avatar.header, field_name="fewshot"), avatar.model, avatar.rig)
    other.save(tmp_path / "wrong.mav")
    with pytest.raises(UserError, match="does not hold what its header says"):
        PortraitAvatar.load(tmp_path / "wrong.mav", "cpu")
    fast = PortraitAvatar(dataclasses.replace(avatar.header, field_name="fast", field={}), avatar.model, avatar.rig)
    fast.save(tmp_path / "fast.mav")
    with pytest.raises(UserError, match="no 2D model 'fast'"):
        PortraitAvatar.load(tmp_path / "fast.mav", "cpu")
    avatar.save(tmp_path / "bilayer.mav")
    with pytest.raises(UserError, match="no field 'bilayer'"):
        Avatar.load(tmp_path / "bilayer.mav", "cpu")


def test_what_is_scored_is_what_the_dataset_asks_for(dataset: Dataset) -> None:
    """Rendering by expression and pose is the network at the dataset's own landmarks, before white."""
    avatar = avatar_of(dataset)
    image = dataset_renderer(avatar, dataset)(5)
    keypoints = (dataset.landmarks_px[5:6] / 16 - 1).flatten(1)
    with torch.no_grad():
        portrait = avatar.model(keypoints)
    mask = portrait.mask_logits.sigmoid()
    wanted = ((portrait.image + 1) / 2).clamp(0, 1) * mask + 1 - mask
    torch.testing.assert_close(image, wanted[0].permute(1, 2, 0), atol=1e-4, rtol=0)


def test_sizes_and_cameras(dataset: Dataset) -> None:
    avatar = avatar_of(dataset)
    small = avatar.rendering([0.3, 0.0])
    wide = avatar.rendering([0.3, 0.0], size_px=(64, 32))
    torch.testing.assert_close(wide.rgb[:, 16:48], small.rgb)
    assert wide.opacity[:, :16].max() == 0 and wide.opacity[:, 48:].max() == 0
    assert avatar.rendering([0.3, 0.0], size_px=96).rgb.shape == (96, 96, 3)
    # A camera that looks past the head moves the landmarks, and with them the picture.
    camera = avatar.camera
    aside = Camera(camera.focal_px, camera.center_px + torch.tensor([6.0, 0.0]), camera.size_px)
    assert (avatar.rendering([0.3, 0.0], camera=aside).rgb - small.rgb).abs().max() > 5e-4


def test_backgrounds(dataset: Dataset) -> None:
    avatar = avatar_of(dataset)
    plain, red = avatar.rendering([0.0, 0.0]), avatar.rendering([0.0, 0.0], background=torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(red.rgb[..., 0], plain.rgb[..., 0] + 1 - plain.opacity)
    torch.testing.assert_close(red.rgb[..., 1:], plain.rgb[..., 1:])
    fewshot = avatar_of(dataset, "fewshot")
    assert fewshot.rendering([0.0, 0.0], background=torch.ones(3)).opacity.min() == 1
    with pytest.raises(UserError, match="its own white background"):
        fewshot.rendering([0.0, 0.0], background=torch.zeros(3))


def test_bad_input(dataset: Dataset) -> None:
    avatar = avatar_of(dataset)
    with pytest.raises(UserError, match="no expression smile"):
        avatar.render({"smile": 1.0})
    with pytest.raises(UserError, match="not a rotation and a translation"):
        avatar.render([0.0, 0.0], np.diag([2.0, 1, 1, 1]))


def test_it_is_driven_like_any_avatar(dataset: Dataset, tmp_path: Path) -> None:
    avatar = avatar_of(dataset).with_scores({"frame": 1})
    assert avatar.header.scores == {"frame": 1}
    expression = torch.stack([torch.linspace(-1, 1, 5), torch.zeros(5)], 1)
    out = tmp_path / "out.mp4"
    write_sequence(out, avatar, expression, dataset.cam_from_head[:5], size_px=64, background=torch.ones(3))
    assert open_clip(out).frame_count == 5 and open_clip(out).size_px == (64, 64)


def test_a_run_becomes_an_avatar(tmp_path: Path) -> None:
    """Of the builtin face: the header says what was made from what, and landmarks are the track's."""
    dataset, model = small_dataset(12, 2), load("builtin")
    count = len(model.expression_names)
    dataset = dataclasses.replace(dataset, expression=torch.zeros(12, count))
    video = tmp_path / "clip.mp4"
    video.write_bytes(b"not looked into")
    track = Track(
        camera=dataset.camera,
        cam_from_head=dataset.cam_from_head,
        identity=torch.ones(len(model.identity_basis_m)),
        expression=dataset.expression,
        landmark_offsets_m=torch.zeros(478, 3),
        residual_px=torch.zeros(12),
        valid=torch.ones(12, dtype=torch.bool),
        frame_rate_hz=25.0,
        landmark_scheme="mediapipe478",
        face_model=model.id,
        expression_names=model.expression_names,
    )
    trainer = PortraitTrainer(dataset, "bilayer", dataclasses.replace(CONFIG, iterations=2), 7)
    trainer.run(show_progress=False)
    avatar = make_portrait(trainer, Clip(video, 25.0, (32, 32), 12, first_frame=100), track, model)
    said = avatar.header.training
    assert said["iterations"] == 2 and said["seed"] == 7 and "person-specific" in said["method"]
    assert said["held_out_frames"] == [110, 111] and avatar.header.provenance["video"] == "clip.mp4"
    torch.testing.assert_close(avatar.rig.neutral_m, LandmarkRig.from_track(track, model).neutral_m)
    assert avatar.render({"jawOpen": 1.0}).shape == (32, 32, 4)
